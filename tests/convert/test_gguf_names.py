from __future__ import annotations

import numpy as np
import pytest

from tests.convert.tiny_models import LLAMA_CONFIG as LLAMA
from wrinklefree.convert import gguf_names as names
from wrinklefree.errors import FormatError


def test_every_expected_tensor_has_a_name_and_comes_back() -> None:
    for family, subln in (("llama", "subln"), ("qwen3", "none"), ("qwen2", "none")):
        config = {**LLAMA, "model_type": family, "tie_word_embeddings": False}
        expected = names.expected_hf_names(config, subln)
        there = names.map_all(expected, to_gguf=True)
        back = names.map_all(there.values(), to_gguf=False)
        assert set(back.values()) == expected


def test_all_unmapped_tensors_are_listed_at_once() -> None:
    given = ["model.norm.weight", "a.weight_scale", "model.layers.0.self_attn.rotary", "b"]
    with pytest.raises(FormatError, match=r"3 tensor.*a\.weight_scale, b, model\.layers\.0"):
        names.map_all(given, to_gguf=True)


def test_interleaving_is_what_makes_both_rotations_equal() -> None:
    """Rotating halves in Hugging Face's order equals rotating neighbours in the file's order."""
    heads, dim, width = 3, 8, 5
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(heads * dim, width)), rng.normal(size=width)
    angles = rng.normal(size=dim // 2)

    q = (weight @ x).reshape(heads, dim)
    first, second = q[:, : dim // 2], q[:, dim // 2 :]
    halves = np.concatenate(
        [
            first * np.cos(angles) - second * np.sin(angles),
            second * np.cos(angles) + first * np.sin(angles),
        ],
        axis=1,
    )
    pairs = (names.interleave_halves(weight, heads) @ x).reshape(heads, dim // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated_even = even * np.cos(angles) - odd * np.sin(angles)
    rotated_odd = odd * np.cos(angles) + even * np.sin(angles)
    np.testing.assert_allclose(halves, np.concatenate([rotated_even, rotated_odd], axis=1))
    with pytest.raises(FormatError, match="24 rows of q or k are not 5 heads"):
        names.interleave_halves(weight, 5)
    assert np.array_equal(
        names.separate_halves(names.interleave_halves(weight, heads), heads), weight
    )
