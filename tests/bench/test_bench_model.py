"""`wf bench model` measures a file or a synthetic one, and the synthetic ones are one model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wrinklefree import _engine
from wrinklefree.bench.shapes import Model
from wrinklefree.bench.synthetic import write_model

TINY = Model("tiny", 2, 256, 512, 4, 2, 64, 400)
SHORT = ["--prompt", "20", "--tokens", "4", "--rounds", "1", "--threads", "2"]


@pytest.fixture
def ternary_gguf(data_dir: Path) -> Path:
    return data_dir / "ternary_gguf_fixture" / "rand256-tq2_0.gguf"


def wf(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("wf")), "bench", "model", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_is_measured(ternary_gguf: Path, batch: int) -> None:
    result = wf(str(ternary_gguf), *SHORT, "--batch", str(batch), "--kv-cache", "f16", "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    for key in ("pp20", "tg4", "tg4_body", "load_s", "rss_mib", "file_mib", "read_gbps"):
        assert figures[key] > 0, key
    assert 0 < figures["body_bw_share"] < 1.02
    assert figures["rss_mib"] > figures["weights_mib"] > 0
    facts = {key: figures[key] for key in ("head", "batch", "kv_cache", "threads", "layout")}
    assert facts == {
        "head": "stored",
        "batch": batch,
        "kv_cache": "f16",
        "threads": 2,
        "layout": "t2",
    }
    assert figures["file_mib"] == pytest.approx(ternary_gguf.stat().st_size / 2**20, abs=0.1)


def test_people_get_lines(ternary_gguf: Path) -> None:
    result = wf(str(ternary_gguf), *SHORT)
    assert result.returncode == 0, result.stderr
    assert "tg4 " in result.stdout


def test_what_cannot_be_measured_is_one_line(tmp_path: Path, ternary_gguf: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    for arguments, code, problem in (
        ([], 2, "one of both"),
        ([str(ternary_gguf), "--shape", "2b-4t"], 2, "one of both"),
        ([str(tmp_path / "none.gguf")], 2, "no model at"),
        ([str(tmp_path / "broken.gguf")], 1, "broken.gguf"),
        ([str(ternary_gguf), "--tokens", "100000"], 2, "context"),
    ):
        result = wf(*arguments)
        assert result.returncode == code, (arguments, result.stderr)
        assert problem in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_all_types_hold_the_same_weights(tmp_path: Path) -> None:
    logits = []
    for kind in ("TQ2_0", "TQ1_0", "Q4_0"):
        path = tmp_path / f"{kind}.gguf"
        write_model(path, TINY, layers=2, vocab=400, linear_type=kind, head_type="F16")
        model = _engine.Model(str(path))
        linears = TINY.layers * TINY.layer_weights
        assert model.info["ternary_parameters"] == linears
        item = _engine.StepItem(model.sequence(8), [5, 7, 9], None, "all")
        logits.append(model.step([item])[0].logits)
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


@pytest.mark.slow
def test_a_shape_is_measured() -> None:
    result = wf("--shape", "smollm2-135m", *SHORT, "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["head"] == "screened"
    assert figures["tg4_body"] > figures["tg4"] > 0


def test_bandwidth_checks_its_arguments() -> None:
    for threads, count in ((0, 1 << 20), (1, 1000)):
        with pytest.raises(_engine.ModelError, match="read_gbps wants"):
            _engine.read_gbps(threads, count)
