"""Hyper-parameters: config.json on one side, GGUF keys on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from wrinklefree.convert.architectures import (
    CLASS_NAMES,
    Architecture,
    architecture_of,
)
from wrinklefree.engine.gguf_tokenizer import num_tokens
from wrinklefree.errors import FormatError

SCHEMA = 1  # of the `wrinklefree.*` keys
SUBLN_EPS_KEY = "wrinklefree.subln_epsilon"
KEPT_FLOAT_KEY = "wrinklefree.modules_to_not_convert"

# (GGUF key after the architecture's prefix, key of config.json)
_COUNTS = (
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("vocab_size", "vocab_size"),
)
# What the engine takes at most (csrc/engine/config.cpp): a damaged file may say anything.
_LIMITS = {
    "max_position_embeddings": 1 << 24,
    "hidden_size": 1 << 20,
    "num_hidden_layers": 512,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1 << 20,
    "num_key_value_heads": 1 << 20,
    "vocab_size": 1 << 24,
}
_MAX_HEAD_DIM = 1024
_LARGEST = 2**31  # of every other number
_ROPE_TYPES = ("default", "linear", "yarn", "llama3")
# Numbers that config.json must have for a type, and those that it may have.
_ROPE_NUMBERS = {
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
_ROPE_OPTIONS = ("rope_theta", "beta_fast", "beta_slow", "attention_factor")
_EPS = "attention.layer_norm_rms_epsilon"
_ROPE_BASE = "rope.freq_base"
_ORIGINAL_CONTEXT = "rope.scaling.original_context_length"
_ATTENTION_FACTOR = "rope.scaling.attn_factor"
_BETAS = {
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}


def head_dim(config: Mapping[str, Any]) -> int:
    given = config.get("head_dim")
    return int(given) if given else int(config["hidden_size"]) // int(config["num_attention_heads"])


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raises FormatError for a size that is missing, or that no model which the engine runs has:
    names and tables are made of them."""
    for key, limit in _LIMITS.items():
        _check_size(key, config.get(key), limit)
    _check_size("head_dim", config.get("head_dim") or head_dim(config), _MAX_HEAD_DIM)


def _check_size(key: str, value: object, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise FormatError(f"{key} is {value!r}, allowed are 1 to {limit}")


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE parameters with their `rope_type` and `rope_theta`, None if the config lacks it.

    transformers 5 writes `rope_parameters`; before, `rope_scaling`, whose type was once called
    `type`, and `rope_theta` beside it. Raises FormatError for a number that is missing or none.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise FormatError(f"rope_parameters of config.json is {rope!r:.60}, not an object")
    older = {"rope_type": rope.get("type", "default"), "rope_theta": config.get("rope_theta")}
    rope = older | rope
    given = [key for key in _ROPE_OPTIONS if rope.get(key) is not None]
    for key in (*_ROPE_NUMBERS.get(str(rope["rope_type"]), ()), *given):
        _check_number(f"{key} of rope_type {rope['rope_type']!r:.20}", rope.get(key))
    return rope


def _check_number(key: str, value: object) -> None:
    if type(value) not in (int, float) or not 0 < value < _LARGEST:  # type: ignore[operator]
        raise FormatError(f"{key} in config.json is {value!r:.60}, it must be a positive number")


def hyper_parameters(config: Mapping[str, Any], arch: Architecture) -> dict[str, int | float | str]:
    """GGUF hyper-parameter keys of a config."""
    rope = rope_of(config)
    rope_type, theta = rope["rope_type"], rope["rope_theta"]
    if rope_type not in _ROPE_TYPES:
        raise FormatError(
            f"rope_type {rope_type!r} cannot be exported; only {', '.join(_ROPE_TYPES)} can"
        )
    missing = [key for _, key in _COUNTS if not isinstance(config.get(key), int)]
    missing += [] if "rms_norm_eps" in config else ["rms_norm_eps"]
    if theta is None:
        missing.append("rope_theta")
    if missing or theta is None:
        raise FormatError(f"config.json lacks {', '.join(missing)}")
    values: dict[str, int | float | str] = {key: int(config[hf]) for key, hf in _COUNTS}
    _check_number("rms_norm_eps", config["rms_norm_eps"])
    values[_EPS] = float(config["rms_norm_eps"])
    values[_ROPE_BASE] = float(theta)
    values["rope.dimension_count"] = head_dim(config)
    values["attention.key_length"] = head_dim(config)
    values["attention.value_length"] = head_dim(config)
    if rope_type in ("linear", "yarn"):  # llama3 is a tensor: rope_divisors.py
        values["rope.scaling.type"] = rope_type
        values["rope.scaling.factor"] = float(rope["factor"])
    if rope_type == "yarn":
        values |= _yarn_keys(rope)
    return {f"{arch.name}.{key}": value for key, value in values.items()}


def _yarn_keys(rope: Mapping[str, Any]) -> dict[str, int | float]:
    """What a file says of YaRN beside its factor."""
    if rope.get("truncate") is False or rope.get("mscale"):
        raise FormatError("YaRN with truncate = false or mscale has no keys in a GGUF file")
    keys: dict[str, int | float] = {
        _ORIGINAL_CONTEXT: int(rope["original_max_position_embeddings"])
    }
    for key, hf in _BETAS.items():
        if rope.get(hf) is not None:
            keys[key] = float(rope[hf])
    if (
        rope.get("attention_factor") is not None
    ):  # the file holds what is left of it beside the paper's own
        keys[_ATTENTION_FACTOR] = float(rope["attention_factor"]) / _yarn_amplitude(rope["factor"])
    return keys


def _yarn_amplitude(factor: float) -> float:
    """0.1 ln(factor) + 1 (YaRN, arXiv 2309.00071, equation 22)."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def config_of(metadata: Mapping[str, Any], tensor_names: Iterable[str]) -> dict[str, Any]:
    """Hugging Face config.json (without token ids and quantization) of GGUF metadata."""
    names = set(tensor_names)
    arch = architecture_of(metadata)
    written = str(metadata["general.architecture"])  # keys have the name as it is written

    def value(key: str) -> Any:
        return metadata.get(f"{written}.{key}")

    rows = num_tokens(metadata)
    counts = {hf: value(key) for key, hf in _COUNTS}
    counts["vocab_size"] = counts["vocab_size"] or rows
    counts["num_key_value_heads"] = counts["num_key_value_heads"] or counts["num_attention_heads"]
    floats = {"rms_norm_eps": value(_EPS), "rope_theta": value(_ROPE_BASE) or 10000.0}
    bad = [
        key
        for key, number in (counts | floats).items()
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not number > 0
    ]
    if bad:
        raise FormatError(f"missing or invalid hyper-parameter(s) in the file: {', '.join(bad)}")
    hidden, heads = int(counts["hidden_size"]), int(counts["num_attention_heads"])
    config = {
        "architectures": [CLASS_NAMES[arch.model_type]],
        "model_type": arch.model_type,
        **{key: int(number) for key, number in counts.items()},
        "head_dim": int(value("attention.key_length") or hidden // heads),
        "hidden_act": arch.hidden_act,
        "rms_norm_eps": shortest(floats["rms_norm_eps"]),
        "rope_parameters": _rope_parameters(floats["rope_theta"], value),
        "tie_word_embeddings": "output.weight" not in names,
        "dtype": "float32",
    }
    check_sizes(config)
    if arch.model_type != "qwen2":  # qwen2 has its biases without an option
        config["attention_bias"] = "blk.0.attn_q.bias" in names
    if arch.model_type == "llama":
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in names
    return config


def _rope_parameters(theta: float, value: Callable[[str], Any]) -> dict[str, Any]:
    """`value` gives a hyper-parameter of the file."""
    scaling, factor = value("rope.scaling.type"), value("rope.scaling.factor")
    parameters = {"rope_type": "default", "rope_theta": shortest(theta)}
    if scaling in (None, "none"):
        return parameters
    if scaling not in ("linear", "yarn") or not isinstance(factor, float):
        raise FormatError(f"rope scaling {scaling!r} with factor {factor!r} is not supported")
    parameters |= {"rope_type": scaling, "factor": shortest(factor)}
    if scaling == "linear":
        return parameters
    original = value(_ORIGINAL_CONTEXT)
    if isinstance(original, bool) or not isinstance(original, int):
        raise FormatError(f"YaRN needs an integer {_ORIGINAL_CONTEXT}")
    parameters["original_max_position_embeddings"] = original
    for key in (*_BETAS, _ATTENTION_FACTOR):
        if not isinstance(value(key), float | None):
            raise FormatError(f"{key} is {value(key)!r:.60}, not a number")
    for key, hf in _BETAS.items():
        if value(key) is not None:
            parameters[hf] = shortest(value(key))
    if value(_ATTENTION_FACTOR) is not None:
        attention_factor = value(_ATTENTION_FACTOR) * _yarn_amplitude(factor)
        parameters["attention_factor"] = shortest(attention_factor)
    return parameters


def shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
