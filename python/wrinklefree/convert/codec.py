"""The bytes of a tensor: ternary matrices in ggml's types, and dense float types.

Ternary layouts come from the native core (docs/formats.md); dense ones from the gguf package.
"""

from __future__ import annotations

import gguf
import numpy as np
import torch

from wrinklefree import ops
from wrinklefree.convert import q6_k
from wrinklefree.convert.ternary_check import Ternary, exact_ternary, round_scale_to_f16
from wrinklefree.convert.types import BF16, F16, F32, I2_S, IQ2_BN, Q6_K, TensorType
from wrinklefree.errors import FormatError

# Layout names of the native core by ggml type.
_LAYOUTS: dict[str, ops.Layout] = {
    "TQ1_0": "tq1_0",
    "TQ2_0": "tq2_0",
    "I2_S": "i2s",
    "Q4_0": "q4_0",
}
_ROWS_AT_ONCE = 1024


def stored_scale(ternary: Ternary, kind: TensorType, name: str) -> np.float32:
    """The scale that a file of this type gives back: as it is in I2_S, rounded to float16 else."""
    return ternary.scale if kind.name == "I2_S" else round_scale_to_f16(ternary, name)


def encode(ternary: Ternary, kind: TensorType, name: str) -> np.ndarray:
    """Bytes of a ternary matrix, uint8; every type holds its codes exactly.

    Raises FormatError if the scale does not survive the type's rounding.
    """
    scale = stored_scale(ternary, kind, name)
    if kind is F16:
        return (ternary.codes * scale).astype(np.float16).view(np.uint8).reshape(-1)
    codes = torch.from_numpy(np.ascontiguousarray(ternary.codes))
    packed: np.ndarray = ops.pack_ternary(codes, torch.tensor(scale), _LAYOUTS[kind.name]).numpy()
    return packed


def decode(
    raw: np.ndarray, kind: TensorType, shape: tuple[int, ...], name: str, i2s_group: int = 128
) -> Ternary:
    """Codes and scale in the bytes of a ternary tensor.

    `i2s_group`: 64 for I2_S tensors from an ARM build of bitnet.cpp. Raises FormatError for blocks
    of different scales, for codes that are not ternary and for a scale that is no positive finite
    number.
    """
    if kind is IQ2_BN:
        return _decode_iq2_bn(raw, shape, name)
    if kind.name not in _LAYOUTS:
        ternary = exact_ternary(dense_values(raw, kind.name, shape))
        if ternary is None:
            raise FormatError(f"{name} ({kind.name}) is not ternary")
        return ternary
    if kind is I2_S and i2s_group == 64:
        raw = _regrouped(raw)
    try:
        codes, scale = ops.unpack_ternary(torch.from_numpy(raw), _LAYOUTS[kind.name], *shape)
    except RuntimeError as error:
        raise FormatError(f"{name} ({kind.name}) is not ternary: {error}") from None
    if not 0 <= float(scale) < np.inf:
        raise FormatError(f"{name} ({kind.name}) has the scale {float(scale)}")
    return Ternary(codes.numpy(), np.float32(scale))


def _regrouped(raw: np.ndarray) -> np.ndarray:
    """I2_S bytes in groups of 64 weights as the same codes in groups of 128.

    ARM builds of bitnet.cpp put weights p, 16 + p, 32 + p, 48 + p of a group into byte p, first in
    bits 7..6; x86 builds p, 32 + p, 64 + p, 96 + p.
    """
    shifts = np.array([6, 4, 2, 0], np.uint8)
    narrow = raw[: -I2_S.trailer_bytes].reshape(-1, 1, 16)
    fields = (narrow >> shifts.reshape(1, 4, 1) & 3).reshape(-1, 4, 32)
    wide = np.bitwise_or.reduce(fields << shifts.reshape(1, 4, 1), axis=1)
    return np.concatenate([wide.reshape(-1), raw[-I2_S.trailer_bytes :]])


def _decode_iq2_bn(raw: np.ndarray, shape: tuple[int, ...], name: str) -> Ternary:
    """The layout of csrc/core/layout/iq2_bn.h; a row of zeros has scale 0."""
    rows, columns = shape
    packed = raw.reshape(rows, 4 + columns // 4)
    scales = np.ascontiguousarray(packed[:, :4]).view("<f4").reshape(-1)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    fields = (packed[:, 4:].reshape(rows, -1, 1, 16) >> shifts & 3).reshape(rows, columns)
    if (fields == 3).any():
        raise FormatError(f"{name} (IQ2_BN) holds a code that no weight has")
    found = np.unique(scales[scales != 0])
    if len(found) > 1 or not (np.isfinite(found) & (found > 0)).all():
        raise FormatError(f"{name} (IQ2_BN): its rows do not have one positive scale")
    codes = fields.astype(np.int8) - 1
    codes[scales == 0] = 0
    return Ternary(codes, np.float32(found[0] if len(found) else 0))


def dense_bytes(values: np.ndarray, kind: TensorType) -> np.ndarray:
    """Bytes of float values, rounded to the type. Raises FormatError for values float16 lacks."""
    if kind is F32:
        return np.ascontiguousarray(values, dtype=np.float32).view(np.uint8).reshape(-1)
    largest = _largest(values)
    if kind is not BF16 and largest > float(np.finfo(np.float16).max):
        raise FormatError(
            f"a value of {largest:g} does not fit {kind.name} (float16 ends at 65504); "
            "use --embed-type f32"
        )
    if kind is Q6_K:
        return q6_k.quantize(values).reshape(-1)
    quantized: np.ndarray = gguf.quantize(values, gguf.GGMLQuantizationType(kind.type_id))
    return quantized.view(np.uint8).reshape(-1)


def dense_values(raw: np.ndarray, type_name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values of any type the gguf package can dequantize."""
    kind = gguf.GGMLQuantizationType[type_name]
    values: np.ndarray = gguf.dequantize(
        raw.reshape(gguf.quant_shape_to_byte_shape(shape, kind)), kind
    )
    return values.reshape(shape)


def is_exact(values: np.ndarray, kind: TensorType) -> bool:
    """Whether the type gives every value back bit for bit."""
    # Some rows at a time: an embedding may be most of what fits in memory.
    return all(
        _is_exact(values[first : first + _ROWS_AT_ONCE], kind)
        for first in range(0, len(values), _ROWS_AT_ONCE)
    )


def _is_exact(rows: np.ndarray, kind: TensorType) -> bool:
    if _largest(rows) > float(np.finfo(np.float16).max):
        return False
    raw = dense_bytes(rows, kind)
    return bool(np.array_equal(dense_values(raw, kind.name, rows.shape), rows))


def _largest(values: np.ndarray) -> float:
    """The largest magnitude, without a copy of the values."""
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
