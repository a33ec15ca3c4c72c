"""What Hugging Face and GGUF call the same tensor, and how its rows are ordered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wrinklefree.errors import FormatError

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
    # Placement `all`: a norm inside each linear layer. No other tool has names for these.
    **{f"{hf}.norm.weight": f"{gguf}_sub_norm.weight" for hf, gguf in _LINEARS.items()},
}
_HF_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_GGUF_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_LAYER_TENSORS_BACK = {gguf: hf for hf, gguf in _LAYER_TENSORS.items()}
_MODEL_TENSORS_BACK = {gguf: hf for hf, gguf in _MODEL_TENSORS.items()}


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


def expected_hf_names(
    config: Mapping[str, Any], subln: str, kept_float: Iterable[str] = ()
) -> set[str]:
    """Weights (biases apart) that a model of this config must have; no norm is inside a linear
    layer that stays float."""
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
    if subln == "all":
        kept = set(kept_float)
        linears = {name.removesuffix(".weight") for name in names if is_projection(name)}
        names |= {f"{linear}.norm.weight" for linear in linears - kept}
    names |= {"model.embed_tokens.weight", "model.norm.weight"}
    if not config.get("tie_word_embeddings", False):
        names.add("lm_head.weight")
    return names


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
    if split[0] * split[1] * split[2] != shape[0]:
        raise FormatError(f"{shape[0]} rows of q or k are not {split[0]} heads of an even size")
    swapped: np.ndarray = rows.reshape(*split, *shape[1:]).swapaxes(1, 2).reshape(shape)
    return swapped
