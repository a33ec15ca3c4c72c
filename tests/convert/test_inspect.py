"""wf-convert inspect: facts of files and directories, against what was put into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from tests.convert.tiny_models import save_tiny_artifact
from wrinklefree.cli.convert import main
from wrinklefree.convert.inspect import inspect_model

TOTAL = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512)  # weights of the fixture's projections


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["inspect", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def as_json(path: Path) -> dict[str, Any]:
    code, out, err = run(path, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def artifact(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "artifact"
    return save_tiny_artifact(path, data_dir / "stories260k_hf", subln="subln")


@pytest.mark.parametrize("kind", ["tq1_0", "tq2_0"])
def test_codes_of_an_independent_file_are_counted(data_dir: Path, kind: str) -> None:
    found = as_json(data_dir / "ternary_gguf_fixture" / f"rand256-{kind}.gguf")
    exact = load_file(data_dir / "ternary_gguf_fixture" / "hf" / "model.safetensors")
    weights = exact["model.layers.1.mlp.down_proj.weight"].astype(np.float32)
    tensor = next(t for t in found["tensors"] if t["name"] == "blk.1.ffn_down.weight")
    assert tensor["type"] == kind.upper()
    assert tensor["shape"] == list(weights.shape)
    assert tensor["codes"] == {
        "minus": int((weights < 0).sum()),
        "zero": int((weights == 0).sum()),
        "plus": int((weights > 0).sum()),
        "scale": float(np.abs(weights).max()),
    }
    assert tensor["relative_error"] is None
    assert sum(found["code_shares"]) == pytest.approx(1.0)
    assert found["metadata"]["tokenizer.ggml.tokens"]["items"] == 512


def test_a_file_of_bitnet_cpp_in_words(data_dir: Path) -> None:
    code, out, _ = run(data_dir / "i2s_fixture" / "bitnet-b158-i2_s.gguf")
    assert code == 0
    assert "general.architecture                           bitnet-b1.58" in out
    assert f"I2_S         14      {TOTAL:,}   89.8%" in out
    assert "14 of 14 projections are ternary" in out


def test_an_artifact_shows_codes_and_the_error_of_its_masters(artifact: Path) -> None:
    found = as_json(artifact)
    assert found["format"] == "wrinklefree artifact"
    assert found["metadata"]["wrinklefree.json"]["subln"] == "subln"
    projection = next(t for t in found["tensors"] if t["name"].endswith("0.mlp.up_proj.weight"))
    assert projection["type"] == "F32"
    assert projection["num_bytes"] == 4 * 256 * 512
    # Gaussian masters: see test_error_of_a_gaussian_matrix_is_what_theory_says
    assert projection["relative_error"] == pytest.approx(0.511, abs=0.01)
    assert found["code_shares"][1] == pytest.approx(0.31, abs=0.01)  # P(|x| < sqrt(2/pi)/2)
    norm = next(t for t in found["tensors"] if t["name"] == "model.norm.weight")
    assert (norm["codes"], norm["relative_error"]) == (None, None)


def test_a_float_model_says_what_ternarizing_would_lose(data_dir: Path) -> None:
    code, out, _ = run(data_dir / "stories260k_hf")
    assert code == 0
    assert "0 of 35 projections are ternary" in out
    assert "absmean would lose" in out
    assert "and 27 more that would lose less" in out
    facts = inspect_model(data_dir / "stories260k_hf" / "stories260K-f32.gguf").tensors
    losses = [t.relative_error for t in facts if t.relative_error is not None]
    assert len(losses) == 35
    assert min(losses) > 0.4


def test_codes_per_layer_are_drawn(artifact: Path, data_dir: Path, tmp_path: Path) -> None:
    code, _, err = run(artifact, "--plot", tmp_path / "codes.png")
    assert code == 0, err
    assert (tmp_path / "codes.png").read_bytes().startswith(b"\x89PNG")
    layers = inspect_model(artifact).layer_codes
    assert list(layers) == [0, 1]
    assert sum(layers[1]) == TOTAL // 2
    floats = data_dir / "stories260k_hf"
    code, _, err = run(floats, "--plot", tmp_path / "none.png")
    assert code == 1
    assert err.splitlines()[-1].endswith("has no ternary projection: there are no codes to draw")
    assert not (tmp_path / "none.png").exists()
    assert run(floats, "--plot", tmp_path / "codes.pdf")[0] == 2


def test_text_of_a_file_cannot_move_the_cursor(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "x\x1b[2J\nerror: y")
    writer.add_float32("f", float("nan"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    code, out, _ = run(tmp_path / "a.gguf")
    assert code == 0
    assert "\x1b" not in out
    assert "\nerror:" not in out
    assert as_json(tmp_path / "a.gguf")["metadata"]["f"] == "nan"


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert run(tmp_path / "a.gguf")[0] == 1
    assert run(tmp_path)[0] == 2
    code, _, err = run(tmp_path / "none")
    assert (code, len(err.splitlines())) == (2, 1)
