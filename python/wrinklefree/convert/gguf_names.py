"""What Hugging Face and GGUF call the same thing: architectures, tensors, hyper-parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wrinklefree.errors import FormatError, nearest

SCHEMA = 1  # of the `wrinklefree.*` keys


@dataclass(frozen=True, slots=True)
class Architecture:
    """One value of `general.architecture`.

    `permutes_qk`: llama.cpp rotates neighbouring pairs there (x0 x1 | x2 x3 ...), Hugging Face
    rotates halves, so the rows of q and k are interleaved in the file.
    """

    name: str
    model_type: str  # Hugging Face's name of the base model
    has_subln: bool
    hidden_act: str
    permutes_qk: bool = False


ARCHITECTURES = {
    arch.name: arch
    for arch in (
        Architecture("llama", "llama", False, "silu", permutes_qk=True),
        Architecture("qwen2", "qwen2", False, "silu"),
        Architecture("qwen3", "qwen3", False, "silu"),
        Architecture("bitnet", "llama", True, "silu"),
        Architecture("bitnet-b1.58", "llama", True, "relu2"),
    )
}
_ALIASES = {"bitnet-25": "bitnet-b1.58", "bitnet-b158": "bitnet-b1.58"}
_CLASS_NAMES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

_MODEL_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
}
_LAYER_TENSORS = {
    **{f"{hf}.weight": f"{gguf}.weight" for hf, gguf in (_LINEARS | _NORMS).items()},
    **{f"{hf}.bias": f"{gguf}.bias" for hf, gguf in _LINEARS.items()},
}
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_GGUF_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_LAYER_TENSORS_BACK = {gguf: hf for hf, gguf in _LAYER_TENSORS.items()}
_MODEL_TENSORS_BACK = {gguf: hf for hf, gguf in _MODEL_TENSORS.items()}

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
_EPS = "attention.layer_norm_rms_epsilon"
_ROPE_BASE = "rope.freq_base"


def architecture(name: str) -> Architecture:
    """The architecture called `name` in a file: aliases and other capitals are understood."""
    key = name.lower()
    arch = ARCHITECTURES.get(_ALIASES.get(key, key))
    if arch is None:
        known = ", ".join([*ARCHITECTURES, *_ALIASES])
        raise FormatError(
            f"GGUF architecture {name!r} is not supported{nearest(key, ARCHITECTURES)}; "
            f"supported: {known}"
        )
    return arch


def architecture_for(config: Mapping[str, Any], subln: str) -> Architecture:
    """The GGUF architecture that computes what a Hugging Face config with this SubLN computes."""
    model_type = str(config.get("model_type"))
    act = config.get("hidden_act")
    if act is None:
        raise FormatError("config.json has no 'hidden_act': the activation is never guessed")
    if subln not in ("none", "subln"):
        raise FormatError(
            f"SubLN placement {subln!r} has no GGUF form; only 'subln' and 'none' can be exported"
        )
    if model_type not in _CLASS_NAMES:
        raise FormatError(
            f"model type {model_type!r} is not supported{nearest(model_type, _CLASS_NAMES)}; "
            f"supported: {', '.join(_CLASS_NAMES)}"
        )
    if subln == "subln" and model_type != "qwen3":
        wanted = {"silu": "bitnet", "relu2": "bitnet-b1.58"}.get(act)
    else:
        # No architecture has query/key norms and sub-norms: a Qwen3 with SubLN keeps its name, and
        # the file carries two more norms per layer.
        wanted = model_type if act == "silu" else None
    if wanted is None:
        raise FormatError(
            f"activation {act!r} of {model_type} with SubLN placement {subln!r} has no GGUF "
            "architecture; silu has one everywhere, relu2 only for llama and qwen2 with 'subln'"
        )
    return ARCHITECTURES[wanted]


def llama_cpp_limit(config: Mapping[str, Any], subln: str) -> str | None:
    """Why mainline llama.cpp cannot run the file of such a model, or None if it can."""
    if subln == "none":
        return None
    if config.get("hidden_act") == "relu2":
        return "llama.cpp has no architecture with squared ReLU and sub-norms"
    if config["model_type"] == "qwen3":
        return "llama.cpp has no architecture with query/key norms and sub-norms"
    if config["model_type"] == "qwen2" or config.get("attention_bias", False):
        return "llama.cpp's bitnet architecture has no biases"
    if not config.get("tie_word_embeddings", False):
        return "llama.cpp's bitnet architecture has no output matrix of its own"
    return None


def to_gguf_name(name: str) -> str | None:
    """GGUF name of a Hugging Face tensor, or None if there is none."""
    layer = _HF_LAYER.fullmatch(name)
    if layer is None:
        return _MODEL_TENSORS.get(name)
    part = _LAYER_TENSORS.get(layer[2])
    return None if part is None else f"blk.{layer[1]}.{part}"


def to_hf_name(name: str) -> str | None:
    """Hugging Face name of a GGUF tensor, or None if there is none."""
    layer = _GGUF_LAYER.fullmatch(name)
    if layer is None:
        return _MODEL_TENSORS_BACK.get(name)
    part = _LAYER_TENSORS_BACK.get(layer[2])
    return None if part is None else f"model.layers.{layer[1]}.{part}"


def map_all(names: Iterable[str], *, to_gguf: bool) -> dict[str, str]:
    """Maps every name or raises one error that lists all names without a counterpart."""
    mapper = to_gguf_name if to_gguf else to_hf_name
    mapped = {name: mapper(name) for name in names}
    unknown = sorted(name for name, other in mapped.items() if other is None)
    if unknown:
        raise FormatError(
            f"{len(unknown)} tensor(s) have no {'GGUF' if to_gguf else 'Hugging Face'} name: "
            + ", ".join(unknown)
        )
    return {name: other for name, other in mapped.items() if other is not None}


def is_projection(hf_name: str) -> bool:
    """True for the weight of one of a block's seven linear layers (those BitLinear replaces)."""
    layer = _HF_LAYER.fullmatch(hf_name)
    return layer is not None and layer[2].removesuffix(".weight") in _LINEARS


def expected_hf_names(config: Mapping[str, Any], subln: str) -> set[str]:
    """Weights (biases apart) that a model of this config must have."""
    model_type = config["model_type"]
    norms = {"input_layernorm", "post_attention_layernorm"}
    if model_type == "qwen3":
        norms |= {"self_attn.q_norm", "self_attn.k_norm"}
    if subln == "subln":
        norms |= {"self_attn.attn_sub_norm", "mlp.ffn_sub_norm"}
    names = {
        f"model.layers.{layer}.{part}.weight"
        for layer in range(int(config["num_hidden_layers"]))
        for part in (*_LINEARS, *norms)
    }
    names |= {"model.embed_tokens.weight", "model.norm.weight"}
    if not config.get("tie_word_embeddings", False):
        names.add("lm_head.weight")
    return names


def head_dim(config: Mapping[str, Any]) -> int:
    given = config.get("head_dim")
    return int(given) if given else int(config["hidden_size"]) // int(config["num_attention_heads"])


def qk_heads(hf_name: str, config: Mapping[str, Any]) -> int | None:
    """Number of heads of a q or k projection (weight or bias), None for any other tensor."""
    if ".self_attn.q_proj." in hf_name:
        return int(config["num_attention_heads"])
    if ".self_attn.k_proj." in hf_name:
        return int(config["num_key_value_heads"])
    return None


def interleave_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row order of rotated halves -> of rotated neighbours, per head; [heads*head_dim, ...]."""
    return _swap_rows(rows, (heads, 2, rows.shape[0] // heads // 2))


def separate_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Inverse of `interleave_halves`."""
    return _swap_rows(rows, (heads, rows.shape[0] // heads // 2, 2))


def _swap_rows(rows: np.ndarray, split: tuple[int, int, int]) -> np.ndarray:
    shape = rows.shape
    swapped: np.ndarray = rows.reshape(*split, *shape[1:]).swapaxes(1, 2).reshape(shape)
    return swapped


def hyper_parameters(config: Mapping[str, Any], arch: Architecture) -> dict[str, int | float | str]:
    """GGUF hyper-parameter keys of a config."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "linear"):
        raise FormatError(
            f"rope_type {rope_type!r} cannot be exported; only 'default' and 'linear' can"
        )
    theta = rope.get("rope_theta", config.get("rope_theta"))
    missing = [key for _, key in _COUNTS if not isinstance(config.get(key), int)]
    missing += [] if "rms_norm_eps" in config else ["rms_norm_eps"]
    if theta is None:
        missing.append("rope_theta")
    if missing or theta is None:
        raise FormatError(f"config.json lacks {', '.join(missing)}")
    values: dict[str, int | float | str] = {key: int(config[hf]) for key, hf in _COUNTS}
    values[_EPS] = float(config["rms_norm_eps"])
    values[_ROPE_BASE] = float(theta)
    values["rope.dimension_count"] = head_dim(config)
    values["attention.key_length"] = head_dim(config)
    values["attention.value_length"] = head_dim(config)
    if rope_type == "linear":
        values["rope.scaling.type"] = "linear"
        values["rope.scaling.factor"] = float(rope["factor"])
    return {f"{arch.name}.{key}": value for key, value in values.items()}


def config_of(metadata: Mapping[str, Any], tensor_names: Iterable[str]) -> dict[str, Any]:
    """Hugging Face config.json (without token ids and quantization) of GGUF metadata."""
    names = set(tensor_names)
    written = metadata.get("general.architecture")
    if not isinstance(written, str):
        raise FormatError("the file has no general.architecture")
    arch = architecture(written)

    def value(key: str) -> Any:
        return metadata.get(f"{written}.{key}")

    rows = len(metadata.get("tokenizer.ggml.tokens", ()))
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
    model_type = str(metadata.get("wrinklefree.model_type", arch.model_type))
    if model_type not in _CLASS_NAMES:
        raise FormatError(f"wrinklefree.model_type {model_type!r} is not supported")
    hidden, heads = int(counts["hidden_size"]), int(counts["num_attention_heads"])
    config = {
        "architectures": [_CLASS_NAMES[model_type]],
        "model_type": model_type,
        **{key: int(number) for key, number in counts.items()},
        "head_dim": int(value("attention.key_length") or hidden // heads),
        "hidden_act": arch.hidden_act,
        "rms_norm_eps": _shortest(floats["rms_norm_eps"]),
        "rope_parameters": _rope_parameters(
            floats["rope_theta"], value("rope.scaling.type"), value("rope.scaling.factor")
        ),
        "tie_word_embeddings": "output.weight" not in names,
        "dtype": "float32",
    }
    if model_type != "qwen2":  # qwen2 has its biases without an option
        config["attention_bias"] = "blk.0.attn_q.bias" in names
    return config


def _rope_parameters(theta: float, scaling: Any, factor: Any) -> dict[str, Any]:
    parameters = {"rope_type": "default", "rope_theta": _shortest(theta)}
    if scaling in (None, "none"):
        return parameters
    if scaling != "linear" or not isinstance(factor, float):
        raise FormatError(f"rope scaling {scaling!r} with factor {factor!r} is not supported")
    return {**parameters, "rope_type": "linear", "factor": _shortest(factor)}


def _shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
