"""Ternary projections that a GGUF file stores as floats, because no block divides their rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.tiny_models import UNEVEN, save_tiny_artifact
from tests.engine.conftest import all_logits
from wrinklefree import LLM, _engine
from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.plan import plan_gguf
from wrinklefree.convert.to_gguf import write_gguf
from wrinklefree.convert.to_hf import write_hf
from wrinklefree.errors import FormatError

# UNEVEN has Q4_0 rows of 96 beside F16 rows of 200; here nothing but floats is possible.
NARROW = {"hidden_size": 88, "intermediate_size": 172, "num_attention_heads": 4}
CASES: list[tuple[str, str, dict[str, int]]] = [
    ("llama", "none", UNEVEN),
    ("llama", "subln", NARROW),
    ("qwen2", "none", NARROW),
    ("qwen3", "subln", UNEVEN),
]
DOWN = "blk.1.ffn_down.weight"
TOKENS = list(range(259, 359))


@pytest.fixture(scope="module", params=CASES, ids=["llama", "llama-subln", "qwen2", "qwen3-subln"])
def pair(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """An artifact and the file made from it."""
    family, subln, shape = request.param
    directory = tmp_path_factory.mktemp("pair")
    artifact = save_tiny_artifact(
        directory / "a", data_dir / "stories260k_hf", family, subln=subln, **shape
    )
    write_gguf(plan_gguf(artifact, embed="f32"), directory / "a.gguf")
    return artifact, directory / "a.gguf"


@pytest.fixture(scope="module")
def narrow(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose projections are all F16 and which only its metadata call ternary."""
    directory = tmp_path_factory.mktemp("narrow")
    artifact = save_tiny_artifact(directory / "a", data_dir / "stories260k_hf", **NARROW)
    write_gguf(plan_gguf(artifact), directory / "a.gguf")
    return directory / "a.gguf"


def info(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = _engine.Model(str(path)).info
    return result


def log_softmax(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    result: np.ndarray = values - np.logaddexp.reduce(values, axis=-1, keepdims=True)
    return result


def patched(source: Path, target: Path, values: Mapping[int, float]) -> Path:
    """The file with other F16 weights at these places of DOWN."""
    (tensor,) = (t for t in _engine.GgufFile(str(source)).tensors if t.name == DOWN)
    assert tensor.type == "F16"
    content = bytearray(source.read_bytes())
    for index, value in values.items():
        at = tensor.offset + 2 * index
        content[at : at + 2] = np.float16(value).tobytes()
    target.write_bytes(content)
    return target


def test_the_same_parameters_are_ternary(pair: tuple[Path, Path]) -> None:
    artifact, file = map(info, pair)
    assert artifact["ternary_parameters"] == file["ternary_parameters"] > 0
    assert artifact["weight_bytes"] == file["weight_bytes"]
    assert file["notes"] == []


def test_the_format_tells_all_types(pair: tuple[Path, Path], narrow: Path) -> None:
    """The most frequent first; of an artifact what its floats became."""
    artifact, file = map(info, pair)
    assert artifact["format"] == "artifact t2"
    assert _engine.Model(str(pair[0]), layout="t1").info["format"] == "artifact t1"
    is_uneven = file["hidden_size"] != NARROW["hidden_size"]
    assert file["format"] == ("gguf Q4_0+F16" if is_uneven else "gguf F16")
    assert info(narrow)["format"] == "gguf F16"


def test_the_artifact_of_the_same_scales_gives_the_same_bits(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Converting back keeps the scales that the file rounded to float16."""
    (tmp_path / "back").mkdir()
    write_hf(GgufSource(pair[1]), tmp_path / "back")
    ours, theirs = (
        all_logits(_engine.Model(str(path)), TOKENS) for path in (pair[1], tmp_path / "back")
    )
    np.testing.assert_array_equal(ours, theirs)


def test_the_artifact_itself_agrees(pair: tuple[Path, Path]) -> None:
    """Only scales differ, by 2^-11 at most. A mean KL of 1e-3 nats is what wf-convert allows for
    that (measured here: 5e-5); the likeliest token is the same but for near-ties."""
    artifact, file = (_engine.Model(str(path)) for path in pair)
    p, q = (log_softmax(all_logits(model, TOKENS)) for model in (artifact, file))
    assert (np.exp(p) * (p - q)).sum(-1).mean() < 1e-3
    is_clear = np.ptp(np.sort(p)[:, -2:], axis=-1) > 0.1
    assert is_clear.mean() > 0.5
    np.testing.assert_array_equal(p.argmax(-1)[is_clear], q.argmax(-1)[is_clear])


def test_a_projection_that_is_not_ternary_stays_dense(narrow: Path, tmp_path: Path) -> None:
    changed = info(patched(narrow, tmp_path / "a.gguf", {7: 0.3}))
    size = NARROW["hidden_size"] * NARROW["intermediate_size"]
    assert changed["ternary_parameters"] == info(narrow)["ternary_parameters"] - size
    assert changed["notes"] == [
        "projections of this ternary model that are not ternary and run without int8 activations: "
        f"1 ({DOWN})"
    ]


def test_a_float_model_stays_float_whatever_its_values(narrow: Path, tmp_path: Path) -> None:
    content = narrow.read_bytes()
    assert content.count(b"wrinklefree.schema") == 1
    (tmp_path / "a.gguf").write_bytes(content.replace(b"wrinklefree.schema", b"someoneelse.schema"))
    assert info(tmp_path / "a.gguf")["ternary_parameters"] == 0
    assert info(tmp_path / "a.gguf")["notes"] == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(narrow: Path, tmp_path: Path, value: float) -> None:
    damaged = patched(narrow, tmp_path / "a.gguf", {0: 0.3, 9000: value})
    with pytest.raises(FormatError, match=rf"'{DOWN}'.*holds a NaN or infinity"):
        LLM(damaged)
