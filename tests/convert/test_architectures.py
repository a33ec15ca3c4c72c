from __future__ import annotations

from typing import Any

import pytest

from tests.convert.tiny_models import LLAMA_CONFIG as LLAMA
from wrinklefree.convert.architectures import architecture, architecture_for, llama_cpp_limit
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
        ("qwen3", "silu", "subln", "qwen3"),
    ],
)
def test_architecture_follows_activation_and_subln(
    family: str, act: str, subln: str, expected: str
) -> None:
    config = {**LLAMA, "model_type": family, "hidden_act": act}
    assert architecture_for(config, subln).name == expected


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
        architecture_for(LLAMA | changes, subln)


@pytest.mark.parametrize("alias", ["BITNET", "bitnet-b1.58", "BitNet-25"])
def test_aliases_and_capitals(alias: str) -> None:
    assert architecture(alias).has_subln


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(FormatError, match=r"bitnet-b1\.58.*|did you mean"):
        architecture("bitnett")


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
    assert (llama_cpp_limit(LLAMA | changes, subln) is None) == runs
