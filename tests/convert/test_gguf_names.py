from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wrinklefree.convert import gguf_names as names
from wrinklefree.errors import FormatError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("family", "act", "subln", "expected"),
    [
        ("llama", "silu", "none", "llama"),
        ("qwen2", "silu", "none", "qwen2"),
        ("qwen3", "silu", "none", "qwen3"),
        ("llama", "silu", "subln", "bitnet"),
        ("llama", "relu2", "subln", "bitnet-b1.58"),
        ("qwen2", "silu", "subln", "bitnet"),
        ("qwen3", "silu", "subln", "qwen3"),
    ],
)
def test_architecture_follows_activation_and_subln(
    family: str, act: str, subln: str, expected: str
) -> None:
    config = {**LLAMA, "model_type": family, "hidden_act": act}
    assert names.architecture_for(config, subln).name == expected


@pytest.mark.parametrize(
    ("changes", "subln", "complaint"),
    [
        ({"hidden_act": None}, "none", "never guessed"),
        ({"hidden_act": "gelu"}, "none", "gelu"),
        ({"hidden_act": "relu2"}, "none", "relu2"),
        ({"hidden_act": "relu2", "model_type": "qwen3"}, "subln", "relu2"),
        ({"model_type": "lama"}, "none", "did you mean 'llama'"),
        ({}, "all", "'all'"),
    ],
)
def test_what_has_no_architecture_is_refused_by_name(
    changes: dict[str, Any], subln: str, complaint: str
) -> None:
    with pytest.raises(FormatError, match=complaint):
        names.architecture_for(LLAMA | changes, subln)


@pytest.mark.parametrize("alias", ["BITNET", "bitnet-b1.58", "BitNet-25"])
def test_aliases_and_capitals(alias: str) -> None:
    assert names.architecture(alias).has_subln


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(FormatError, match=r"bitnet-b1\.58.*|did you mean"):
        names.architecture("bitnett")


@pytest.mark.parametrize(
    ("changes", "subln", "runs"),
    [
        ({}, "none", True),
        ({}, "subln", True),
        ({"model_type": "qwen2"}, "none", True),
        ({"model_type": "qwen2"}, "subln", False),
        ({"model_type": "qwen3"}, "subln", False),
        ({"attention_bias": True}, "subln", False),
        ({"tie_word_embeddings": False}, "none", True),
        ({"tie_word_embeddings": False}, "subln", False),
        ({"hidden_act": "relu2"}, "subln", False),
    ],
)
def test_what_llama_cpp_cannot_run_is_said(changes: dict[str, Any], subln: str, runs: bool) -> None:
    assert (names.llama_cpp_limit(LLAMA | changes, subln) is None) == runs


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
    assert np.array_equal(
        names.separate_halves(names.interleave_halves(weight, heads), heads), weight
    )


def test_hyper_parameters_round_trip() -> None:
    arch = names.ARCHITECTURES["llama"]
    keys = names.hyper_parameters(LLAMA, arch)
    stored = {key: float(np.float32(v)) if isinstance(v, float) else v for key, v in keys.items()}
    config = names.config_of({"general.architecture": "llama", **stored}, ["token_embd.weight"])
    assert {key: config[key] for key in LLAMA} == LLAMA


def test_linear_rope_scaling_round_trips_and_others_are_refused() -> None:
    arch = names.ARCHITECTURES["llama"]
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    keys = names.hyper_parameters(LLAMA | {"rope_parameters": rope}, arch)
    config = names.config_of({"general.architecture": "llama", **keys}, ["token_embd.weight"])
    assert config["rope_parameters"] == rope
    with pytest.raises(FormatError, match="yarn"):
        names.hyper_parameters(LLAMA | {"rope_parameters": {"rope_type": "yarn"}}, arch)


def test_missing_config_entries_are_listed_together() -> None:
    broken = {k: v for k, v in LLAMA.items() if k not in ("hidden_size", "rms_norm_eps")}
    with pytest.raises(FormatError, match="hidden_size, rms_norm_eps"):
        names.hyper_parameters(broken, names.ARCHITECTURES["llama"])


@pytest.mark.parametrize("value", [0, -1, "3", True, None])
def test_invalid_hyper_parameters_of_a_file(value: object) -> None:
    keys = names.hyper_parameters(LLAMA, names.ARCHITECTURES["llama"])
    metadata = {"general.architecture": "llama", **keys, "llama.block_count": value}
    with pytest.raises(FormatError, match="num_hidden_layers"):
        names.config_of(metadata, ["token_embd.weight"])
