"""`wf bench model` measures a file or a synthetic one, and the synthetic ones are one model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wrinklefree import LLM, _engine
from wrinklefree.bench.model import PHASES
from wrinklefree.bench.shapes import Model
from wrinklefree.bench.synthetic import write_model
from wrinklefree.engine import Tokenizer

TINY = Model("tiny", 2, 256, 512, 4, 2, 64, 400)
SHORT = ["--prompt", "20", "--tokens", "4", "--depth", "20", "--rounds", "1", "--threads", "2"]


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


def test_shares_of_the_step_and_a_roofline(tmp_path: Path, ternary_gguf: Path) -> None:
    picture = tmp_path / "roofline.png"
    result = wf(str(ternary_gguf), *SHORT, "--profile", "--plot", str(picture), "--json")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert list(figures["profile"]) == ["decode", "prefill"]
    for shares in figures["profile"].values():
        assert set(shares) == set(PHASES)
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
        assert min(shares.values()) > 0
    points = figures["roofline"]["points"]
    assert [point["name"] for point in points] == [
        "decode",
        "decode without the head",
        "decode, batch of 16",
        "prefill of 20",
    ]
    decode, body, batch, prefill = (point["macs_per_byte"] for point in points)
    # A batch reads weights once; a prompt does, and its keys and values only once too.
    assert decode < body < 4
    assert decode < batch < prefill
    for point in points[:2]:
        assert 0 < point["gmacs"] < 4 * figures["roofline"]["read_gbps"]
    peak = figures["roofline"]["multiply_gmacs"]
    assert (peak > 0) == bool(figures["roofline"]["multiply_instruction"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_people_get_tables(tmp_path: Path, ternary_gguf: Path) -> None:
    picture = str(tmp_path / "roofline.png")
    result = wf(str(ternary_gguf), *SHORT, "--batch", "3", "--profile", "--plot", picture)
    assert result.returncode == 0, result.stderr
    assert "norm + quantize" in result.stdout
    assert "decode, batch of 3 " in result.stdout


def test_bytes_of_a_token_are_weights_head_and_cache(ternary_gguf: Path) -> None:
    figures = json.loads(wf(str(ternary_gguf), *SHORT, "--json").stdout)
    info = _engine.Model(str(ternary_gguf)).info
    assert info["tied"]
    assert info["weight_bytes"] == info["layer_weight_bytes"] + info["head_weight_bytes"]
    assert info["layer_weight_bytes"] == info["ternary_weight_bytes"]
    cache = 22.5 * info["kv_bytes_per_token"]  # 20 tokens before, and half of 4 and itself
    assert figures["bytes_per_token"] == pytest.approx(info["weight_bytes"] + cache, abs=1)
    rate = figures["tg4"] * figures["bytes_per_token"] / 1e9 / figures["read_gbps"]
    assert figures["bw_share"] == pytest.approx(rate, abs=1e-3)


def test_what_cannot_be_measured_is_one_line(
    tmp_path: Path, data_dir: Path, ternary_gguf: Path
) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    for arguments, code, problem in (
        ([], 2, "one of both"),
        ([str(ternary_gguf), "--shape", "2b-4t"], 2, "one of both"),
        ([str(tmp_path / "none.gguf")], 2, "no model at"),
        ([str(tmp_path / "broken.gguf")], 1, "broken.gguf"),
        ([str(ternary_gguf), "--tokens", "100000"], 2, "context"),
        ([str(data_dir / "stories260k_hf"), "--plot", str(tmp_path / "a.png")], 2, "no ternary"),
        ([str(ternary_gguf), "--plot", str(tmp_path / "none" / "a.png")], 2, "no directory"),
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


def test_the_peak_is_of_an_instruction_set_that_runs_here() -> None:
    assert _engine.multiply_peak("scalar", 1) == ("", 0)
    for isa in _engine.cpu_info()["available"]:
        instruction, gmacs = _engine.multiply_peak(isa, 2)
        assert (gmacs > 0) == (instruction != "") == (isa != "scalar")
    for isa, threads, problem in (("pentium", 1, "cannot run"), ("scalar", 0, "threads")):
        with pytest.raises(_engine.ModelError, match=problem):
            _engine.multiply_peak(isa, threads)


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


def test_a_random_model_may_have_a_real_tokenizer(data_dir: Path, tmp_path: Path) -> None:
    path, directory = tmp_path / "model.gguf", data_dir / "tokenizer_smollm2"
    write_model(
        path,
        TINY,
        layers=2,
        vocab=49152,
        linear_type="TQ2_0",
        head_type="Q6_K",
        tokenizer=directory,
    )
    text = "One day, a naïve 東京 123"
    with LLM(path) as llm:
        assert llm.info["format"] == "gguf TQ2_0"
        assert llm.tokenizer.encode(text) == Tokenizer.from_dir(directory).encode(text)
        assert llm.tokenizer.chat_template is not None
        assert llm.generate(text, max_tokens=4).token_ids
