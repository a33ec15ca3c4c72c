"""transformers' BitNet checkpoints: `quantization_config.quant_method` = "bitnet".

Packed ("offline") ones hold uint8 codes and a scale per matrix, with two opposite meanings of the
scale; "online" ones hold float masters that each forward pass quantizes by absmean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wrinklefree import ops
from wrinklefree.convert import gguf_names as names
from wrinklefree.convert.hyper_parameters import rope_of
from wrinklefree.convert.source import Source
from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.errors import FormatError, nearest

QUANT_METHOD = "bitnet"
MODEL_TYPE = "bitnet"  # the class with attn_sub_norm and ffn_sub_norm; otherwise a Llama
SCALE_SUFFIX = ".weight_scale"
LINEAR_CLASSES = ("autobitlinear", "bitlinear")
_MODES = ("offline", "online")
# A BitNet config and a Llama config have other defaults for these: they must be written.
_NEVER_GUESSED = ("hidden_act", "rms_norm_eps", "num_key_value_heads", "tie_word_embeddings")


@dataclass(frozen=True, slots=True)
class BitnetQuantization:
    """`quantization_config` of such a checkpoint.

    `rms_norm_eps` is None without `use_rms_norm`; `modules_to_not_convert` is None where the
    library decides, which keeps the head in float.
    """

    linear_class: str = "autobitlinear"
    is_online: bool = False
    rms_norm_eps: float | None = None
    modules_to_not_convert: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> BitnetQuantization:
        """Raises FormatError for a value whose meaning is not known. Absent entries have the
        defaults of transformers, which is what old checkpoints were written for."""
        linear_class = _one_of("linear_class", fields.get("linear_class", "bitlinear"))
        mode = _one_of("quantization_mode", fields.get("quantization_mode", "offline"))
        kept = fields.get("modules_to_not_convert")
        if kept is not None and not (
            isinstance(kept, list) and all(isinstance(entry, str) for entry in kept)
        ):
            raise FormatError(f"modules_to_not_convert must be a list of names, not {kept!r}")
        if kept is not None and "lm_head" not in kept:
            raise FormatError(
                "modules_to_not_convert does not name lm_head: a ternary head is not supported"
            )
        eps = fields.get("rms_norm_eps", 1e-6) if fields.get("use_rms_norm", False) else None
        return cls(
            linear_class,
            linear_class == "autobitlinear" and mode == "online",  # bitlinear knows no modes
            eps,
            None if kept is None else tuple(kept),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "quant_method": QUANT_METHOD,
            "linear_class": self.linear_class,
            "quantization_mode": "online" if self.is_online else "offline",
            "use_rms_norm": self.rms_norm_eps is not None,
            "rms_norm_eps": 1e-6 if self.rms_norm_eps is None else self.rms_norm_eps,
            "modules_to_not_convert": list(self.modules_to_not_convert or ()),
        }

    def keeps_float(self, module: str) -> bool:
        """transformers' rule without its regular expressions: an entry is the start of a module's
        name up to a dot, or its end."""
        return any(
            f"{module}.".startswith(f"{entry.removesuffix('.')}.") or module.endswith(entry)
            for entry in self.modules_to_not_convert or ()
        )

    def scale_of(self, stored: np.float32) -> np.float32:
        """Scale of the weights from `weight_scale`: bitlinear divides by it, the other
        multiplies."""
        if self.linear_class == "autobitlinear":
            return stored
        divisor: np.float32 = np.float32(1.0 / float(stored))
        return divisor

    def read_bias(self, stored: np.ndarray, scale: np.float32) -> np.ndarray:
        """AutoBitLinear of a packed matrix adds the bias before it multiplies by the scale."""
        values: np.ndarray = stored * scale if self._scales_bias else stored
        return values

    def stored_bias(self, bias: np.ndarray, scale: np.float32) -> np.ndarray:
        """Inverse of `read_bias`, up to rounding."""
        values: np.ndarray = bias / scale if self._scales_bias else bias
        return values

    @property
    def _scales_bias(self) -> bool:
        return self.linear_class == "autobitlinear" and not self.is_online

    def weight_scale(self, scale: np.float32) -> np.float32:
        """Inverse of `scale_of`, up to the rounding of a reciprocal."""
        return self.scale_of(scale)


def _one_of(key: str, value: Any) -> str:
    allowed = LINEAR_CLASSES if key == "linear_class" else _MODES
    if value not in allowed:
        raise FormatError(
            f"quantization_config has {key} {value!r}, whose scales are not known"
            f"{nearest(str(value), allowed)}; known: {', '.join(allowed)}"
        )
    return str(value)


def base_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a `bitnet` model as that of the Llama which it is, sub-norms apart."""
    missing = [key for key in _NEVER_GUESSED if config.get(key) is None]
    if rope_of(config)["rope_theta"] is None:
        missing.append("rope_theta")
    if missing:
        raise FormatError(f"config.json lacks {', '.join(missing)}, which are never guessed")
    return {**config, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def stored_name(name: str) -> str:
    """The artifact's name of a norm inside a linear layer -> transformers' name."""
    return name.replace("_proj.norm.weight", "_proj.rms_norm.weight")


def artifact_name(name: str) -> str:
    return name.replace("_proj.rms_norm.weight", "_proj.norm.weight")


def pack(ternary: Ternary) -> np.ndarray:
    """uint8 [N / 4, K]."""
    rows, columns = ternary.codes.shape
    codes = torch.from_numpy(np.ascontiguousarray(ternary.codes))
    packed: np.ndarray = ops.pack_ternary(codes, torch.tensor(1.0), "hf").numpy()
    return packed.reshape(-(-rows // 4), columns)


def unpack(packed: np.ndarray, rows: int, name: str) -> np.ndarray:
    """int8 [rows, K]. Raises FormatError for a byte that no codes give, or for too few rows."""
    if packed.shape[0] != -(-rows // 4):
        raise FormatError(
            f"{name} has {packed.shape[0]} packed rows; {rows} rows of codes need {-(-rows // 4)}"
        )
    flat = torch.from_numpy(np.ascontiguousarray(packed).reshape(-1))
    try:
        codes, _ = ops.unpack_ternary(flat, "hf", rows, packed.shape[1])
    except RuntimeError as error:
        raise FormatError(f"{name} is not packed ternary weights: {error}") from None
    found: np.ndarray = codes.numpy()
    return found


def class_limit(source: Source, *, is_float: bool) -> str | None:
    """Why no class of transformers computes this model, or None if one does.

    With sub-norms that is `BitNetForCausalLM`; a norm inside every linear layer is an option of
    the quantized layers, so a float model has none.
    """
    config = source.config
    if source.subln == "all":
        return "no float class has a norm inside each linear layer" if is_float else None
    if source.subln == "none":
        return None
    if config["model_type"] != "llama":
        return f"transformers' BitNet class has no sub-norms for {config['model_type']}"
    heads = int(config["num_attention_heads"])
    width = heads * int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    if width != config["hidden_size"]:
        return "transformers' BitNet class needs heads x head size = hidden size"
    if any(name.endswith("_proj.bias") and ".mlp." in name for name in source.names):
        return "transformers' BitNet class has no biases in its MLP"
    if source.subln_eps != config["rms_norm_eps"]:
        return "transformers' BitNet class has one epsilon for all norms"
    return None


def packing_limit(source: Source) -> str | None:
    """Why the packed form cannot hold the model, or None if it can."""
    limit = class_limit(source, is_float=False)
    if limit is not None:
        return limit
    odd = sorted(
        name for name in source.names if source.is_ternary(name) and source.shape(name)[0] % 4
    )
    if odd:
        return (
            f"transformers loads only packed matrices whose rows are a multiple of 4: {odd[0]} has "
            f"{source.shape(odd[0])[0]}"
        )
    return None


def projection_rows(name: str, config: Mapping[str, Any]) -> int:
    """Rows of a projection that this config says."""
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    part = name.split(".")[-2]
    rows = {
        "q_proj": heads * head_dim,
        "k_proj": int(config["num_key_value_heads"]) * head_dim,
        "v_proj": int(config["num_key_value_heads"]) * head_dim,
        "gate_proj": int(config["intermediate_size"]),
        "up_proj": int(config["intermediate_size"]),
    }
    return rows.get(part, int(config["hidden_size"]))


def weight_name(scale_name: str) -> str | None:
    """The projection that a `weight_scale` belongs to, None if it belongs to none."""
    weight = scale_name.removesuffix(SCALE_SUFFIX) + ".weight"
    return weight if names.is_projection(weight) else None
