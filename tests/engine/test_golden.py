"""Real files against what transformers computed from them in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.engine.conftest import TopTokens, all_logits, greedy_tops
from wrinklefree import _engine


def worst_difference(ours: TopTokens, theirs: TopTokens) -> float:
    """Largest log-probability difference; the tokens must agree in order."""
    assert [[token for token, _ in top] for top in ours] == [
        [token for token, _ in top] for top in theirs
    ]
    return max(
        abs(a[1] - b[1])
        for top, other in zip(ours, theirs, strict=True)
        for a, b in zip(top, other, strict=True)
    )


@pytest.mark.parametrize("name", ["", "stories260K-f32.gguf"], ids=["directory", "gguf"])
def test_stories260k_matches_transformers(
    stories_dir: Path, golden: Callable[[Path], TopTokens], name: str
) -> None:
    model = _engine.Model(str(stories_dir / name))
    expected = golden(stories_dir)
    # The golden file has four decimals.
    assert worst_difference(greedy_tops(model, len(expected)), expected) < 1e-4


@pytest.mark.parametrize("kind", ["f16", "tq2_0", "tq1_0"])
def test_ternary_files_without_activation_quantization_match_transformers(
    data_dir: Path, golden: Callable[[Path], TopTokens], kind: str
) -> None:
    directory = data_dir / "ternary_gguf_fixture"
    model = _engine.Model(str(directory / f"rand256-{kind}.gguf"), act_quant=False)
    expected = golden(directory)
    assert worst_difference(greedy_tops(model, len(expected)), expected) < 1e-3


def test_ternary_formats_of_one_model_give_the_same_bits(data_dir: Path) -> None:
    directory = data_dir / "ternary_gguf_fixture"
    tokens = list(range(3, 60))
    tq1 = _engine.Model(str(directory / "rand256-tq1_0.gguf"))
    tq2 = _engine.Model(str(directory / "rand256-tq2_0.gguf"))
    assert tq2.info["ternary_parameters"] > 0.6 * tq2.info["total_parameters"]
    np.testing.assert_array_equal(all_logits(tq1, tokens), all_logits(tq2, tokens))


def test_i2s_bytes_of_bitnet_cpp_are_the_weights_of_the_f16_file(data_dir: Path) -> None:
    directory = data_dir / "i2s_fixture"
    tokens = list(range(3, 40))
    i2s = _engine.Model(str(directory / "bitnet-b158-i2_s.gguf"), act_quant=False)
    f16 = _engine.Model(str(directory / "bitnet-b158-f16.gguf"), act_quant=False)
    assert i2s.info["act"] == "relu2"
    assert i2s.info["subln"] == "subln"
    np.testing.assert_array_equal(all_logits(i2s, tokens), all_logits(f16, tokens))


def test_info_counts_weights_as_they_are_resident(ternary_gguf: Path) -> None:
    info = _engine.Model(str(ternary_gguf)).info
    float_parameters = info["total_parameters"] - info["ternary_parameters"]
    # Two bits a ternary weight, and the float16 embedding; the sizes here need no padding.
    assert info["weight_bytes"] == info["ternary_parameters"] // 4 + 2 * float_parameters


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("stories260k_hf", "artifact F32"),
        ("stories260k_hf/stories260K-f32.gguf", "gguf F32"),
        ("ternary_gguf_fixture/rand256-tq1_0.gguf", "gguf TQ1_0"),
        ("i2s_fixture/bitnet-b158-i2_s.gguf", "gguf I2_S"),
    ],
)
def test_info_names_the_format(data_dir: Path, path: str, expected: str) -> None:
    assert _engine.Model(str(data_dir / path)).info["format"] == expected
