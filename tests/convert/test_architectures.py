from __future__ import annotations

from typing import Any

import pytest

from tests.convert.tiny_models import LLAMA_CONFIG as LLAMA
from wrinklefree.convert.architectures import (
    Architecture,
    architecture,
    architecture_for,
    architecture_of,
    llama_cpp_limit,
    own_reason,
)
from wrinklefree.errors import FormatError


@pytest.mark.parametrize(
    ("family", "act", "subln", "expected"),
    [
        ("llama", "silu", "none", "llama"),
        ("qwen2", "silu", "none", "qwen2"),
        ("qwen3", "silu", "none", "qwen3"),
        ("llama", "silu", "subln", "bitnet"),
        ("llama", "relu2", "subln", "bitnet-b1.58"),
        ("qwen2", "silu", "subln", "bitnet"),
        ("qwen3", "silu", "subln", "wrinklefree"),
        ("qwen3", "relu2", "subln", "wrinklefree"),
        ("llama", "relu2", "none", "wrinklefree"),
        ("llama", "silu", "all", "wrinklefree"),
    ],
)
def test_architecture_follows_activation_and_subln(
    family: str, act: str, subln: str, expected: str
) -> None:
    config = {**LLAMA, "model_type": family, "hidden_act": act}
    arch = architecture_for(config, subln, config["rms_norm_eps"])
    assert (arch.name, arch.hidden_act, arch.subln) == (expected, act, subln)


@pytest.mark.parametrize(
    ("changes", "subln", "complaint"),
    [
        ({"hidden_act": None}, "none", "never guessed"),
        ({"hidden_act": "gelu"}, "none", "gelu"),
        ({"model_type": "lama"}, "none", "did you mean 'llama'"),
    ],
)
def test_what_has_no_architecture_is_refused_by_name(
    changes: dict[str, Any], subln: str, complaint: str
) -> None:
    with pytest.raises(FormatError, match=complaint):
        architecture_for(LLAMA | changes, subln, 1e-5)


@pytest.mark.parametrize("alias", ["BITNET", "bitnet-b1.58", "BitNet-25"])
def test_aliases_and_capitals(alias: str) -> None:
    assert architecture(alias).subln == "subln"


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(FormatError, match=r"bitnet-b1\.58.*|did you mean"):
        architecture("bitnett")


OWN = {
    "general.architecture": "wrinklefree",
    "wrinklefree.model_type": "qwen3",
    "wrinklefree.subln": "all",
    "wrinklefree.hidden_act": "relu2",
}


def test_our_own_architecture_says_everything_of_itself() -> None:
    assert architecture_of(OWN) == Architecture("wrinklefree", "qwen3", "all", "relu2")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"wrinklefree.subln": None}, "wrinklefree.subln is None; known are subln, all, none"),
        ({"wrinklefree.hidden_act": "gelu"}, "known are silu, relu2"),
        ({"wrinklefree.model_type": "gpt2"}, "known are llama, qwen2, qwen3"),
        ({"general.architecture": "llama"}, "'qwen3', but llama has 'llama'"),
        ({"general.architecture": "wrinkelfree"}, "did you mean 'wrinklefree'"),
        ({"general.architecture": 3}, "no general.architecture"),
    ],
)
def test_keys_that_contradict_the_name_or_are_missing(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(FormatError, match=complaint):
        architecture_of(OWN | changes)


QKV_BIASES = [f"model.layers.0.self_attn.{name}_proj.bias" for name in "qkv"]


@pytest.mark.parametrize(
    ("changes", "subln", "biases", "reason"),
    [
        ({}, "none", [], None),
        ({}, "none", [*QKV_BIASES, "model.layers.0.mlp.up_proj.bias"], None),
        ({}, "subln", [], None),
        ({"model_type": "qwen2"}, "none", QKV_BIASES, None),
        ({"model_type": "qwen2"}, "none", ["model.layers.0.self_attn.o_proj.bias"], "biases"),
        ({"model_type": "qwen3"}, "none", QKV_BIASES, "qwen3 architecture has no such biases"),
        ({"model_type": "qwen2"}, "subln", QKV_BIASES, "no biases"),
        ({"model_type": "qwen3"}, "subln", [], "query/key norms and sub-norms"),
        ({"tie_word_embeddings": False}, "none", [], None),
        ({"tie_word_embeddings": False}, "subln", [], "no output matrix"),
        ({"hidden_act": "relu2"}, "subln", [], None),
        ({"hidden_act": "relu2"}, "none", [], "squared ReLU without"),
        ({"head_dim": 32}, "subln", [], "hidden size"),
        ({"rms_norm_eps": 1e-6}, "subln", [], "one epsilon"),
        ({}, "all", [], "inside each linear layer"),
    ],
)
def test_what_no_peer_has_is_said(
    changes: dict[str, Any], subln: str, biases: list[str], reason: str | None
) -> None:
    found = own_reason(LLAMA | changes, subln, 1e-5, biases)
    assert (reason is None and found is None) or (reason is not None and reason in str(found))


def test_mainline_llama_cpp_lacks_what_bitnet_cpp_has() -> None:
    assert llama_cpp_limit(architecture("bitnet"), None) is None
    assert llama_cpp_limit(architecture("llama"), None) is None
    assert "squared ReLU" in str(llama_cpp_limit(architecture("BitNet-25"), None))
