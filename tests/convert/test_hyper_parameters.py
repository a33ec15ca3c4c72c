from __future__ import annotations

import numpy as np
import pytest

from tests.convert.tiny_models import LLAMA_CONFIG as LLAMA
from wrinklefree.convert.architectures import ARCHITECTURES
from wrinklefree.convert.hyper_parameters import (
    check_sizes,
    config_of,
    hyper_parameters,
    rope_of,
)
from wrinklefree.errors import FormatError


def test_hyper_parameters_round_trip() -> None:
    arch = ARCHITECTURES["llama"]
    keys = hyper_parameters(LLAMA, arch)
    stored = {key: float(np.float32(v)) if isinstance(v, float) else v for key, v in keys.items()}
    config = config_of({"general.architecture": "llama", **stored}, ["token_embd.weight"])
    assert {key: config[key] for key in LLAMA} == LLAMA


YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 2048,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        YARN,
        YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25},
    ],
    ids=["linear", "yarn", "yarn-all"],
)
def test_rope_scaling_round_trips(rope: dict[str, object]) -> None:
    keys = hyper_parameters(LLAMA | {"rope_parameters": rope}, ARCHITECTURES["llama"])
    config = config_of({"general.architecture": "llama", **keys}, ["token_embd.weight"])
    assert config["rope_parameters"] == rope


@pytest.mark.parametrize(
    "rope", [{"rope_type": "longrope"}, YARN | {"truncate": False}, YARN | {"mscale": 1.0}]
)
def test_rope_scaling_that_a_file_cannot_say_is_refused(rope: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=r"longrope|YaRN"):
        hyper_parameters(LLAMA | {"rope_parameters": rope}, ARCHITECTURES["llama"])


@pytest.mark.parametrize("value", ["8", True, {}, 0, -1, float("nan"), 1e300])
@pytest.mark.parametrize(
    ("rope", "key"),
    [
        ({"rope_type": "linear", "rope_theta": 1e4}, "factor"),
        (YARN, "factor"),
        (YARN, "original_max_position_embeddings"),
        (YARN, "beta_fast"),
        (LLAMA_3, "factor"),
        (LLAMA_3, "low_freq_factor"),
        (LLAMA_3, "original_max_position_embeddings"),
        (LLAMA_3, "rope_theta"),
    ],
)
def test_rope_numbers_that_are_none(rope: dict[str, object], key: str, value: object) -> None:
    with pytest.raises(FormatError, match=f"{key} of rope_type .* must be a positive number"):
        rope_of({"rope_scaling": rope | {key: value}})


@pytest.mark.parametrize("name", ["linear", "yarn", "llama3"])
def test_rope_scaling_without_its_factor(name: str) -> None:
    rope = {"rope_type": name, "rope_theta": 1e4, "factor": None}
    for broken in (rope, {"type": name}):
        with pytest.raises(FormatError, match="factor of rope_type"):
            hyper_parameters(LLAMA | {"rope_parameters": broken}, ARCHITECTURES["llama"])


@pytest.mark.parametrize("key", ["yarn_beta_fast", "yarn_beta_slow", "attn_factor"])
def test_rope_numbers_of_a_file_that_are_none(key: str) -> None:
    keys = hyper_parameters(LLAMA | {"rope_parameters": YARN}, ARCHITECTURES["llama"])
    metadata = {"general.architecture": "llama", **keys, f"llama.rope.scaling.{key}": "x"}
    with pytest.raises(FormatError, match=key):
        config_of(metadata, ["token_embd.weight"])


@pytest.mark.parametrize("rope", ["linear", [1], 5])
def test_rope_parameters_that_are_no_object(rope: object) -> None:
    with pytest.raises(FormatError, match="not an object"):
        hyper_parameters(LLAMA | {"rope_parameters": rope}, ARCHITECTURES["llama"])


def test_other_numbers_that_are_none() -> None:
    with pytest.raises(FormatError, match="rms_norm_eps"):
        hyper_parameters(LLAMA | {"rms_norm_eps": None}, ARCHITECTURES["llama"])
    with pytest.raises(FormatError, match="head_dim"):
        check_sizes(LLAMA | {"head_dim": "x"})


def test_missing_config_entries_are_listed_together() -> None:
    broken = {k: v for k, v in LLAMA.items() if k not in ("hidden_size", "rms_norm_eps")}
    with pytest.raises(FormatError, match="hidden_size, rms_norm_eps"):
        hyper_parameters(broken, ARCHITECTURES["llama"])


def test_tokens_of_a_file_that_are_no_list() -> None:
    keys = hyper_parameters(LLAMA, ARCHITECTURES["llama"])
    metadata = {"general.architecture": "llama", **keys, "tokenizer.ggml.tokens": 4}
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.tokens"):
        config_of(metadata, ["token_embd.weight"])


@pytest.mark.parametrize("value", [0, -1, "3", True, None])
def test_invalid_hyper_parameters_of_a_file(value: object) -> None:
    keys = hyper_parameters(LLAMA, ARCHITECTURES["llama"])
    metadata = {"general.architecture": "llama", **keys, "llama.block_count": value}
    with pytest.raises(FormatError, match="num_hidden_layers"):
        config_of(metadata, ["token_embd.weight"])
