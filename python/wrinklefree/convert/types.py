"""Which GGUF type a ternary tensor gets, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wrinklefree.errors import FormatError, UsageError, nearest


@dataclass(frozen=True, slots=True)
class TensorType:
    """A ggml type: `block` weights of a row take `block_bytes`; `trailer_bytes` once per tensor."""

    name: str
    type_id: int
    block: int
    block_bytes: int
    trailer_bytes: int = 0

    def fits(self, columns: int) -> bool:
        return columns % self.block == 0

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        *rows, columns = shape
        if not self.fits(columns):
            raise FormatError(
                f"a row of {columns} is not a multiple of {self.name}'s block of {self.block}"
            )
        count = columns // self.block
        for rows_in_dim in rows:
            count *= rows_in_dim
        return count * self.block_bytes + self.trailer_bytes


F32 = TensorType("F32", 0, 1, 4)
F16 = TensorType("F16", 1, 1, 2)
Q4_0 = TensorType("Q4_0", 2, 32, 18)
Q8_0 = TensorType("Q8_0", 8, 32, 34)
Q6_K = TensorType("Q6_K", 14, 256, 210)
BF16 = TensorType("BF16", 30, 1, 2)
TQ1_0 = TensorType("TQ1_0", 34, 256, 54)
TQ2_0 = TensorType("TQ2_0", 35, 256, 66)
# The fork-only type of bitnet.cpp: one float32 scale behind the codes, padded to 32 bytes.
I2_S = TensorType("I2_S", 36, 128, 32, trailer_bytes=32)
# ik_llama.cpp's type with a float32 scale in front of each row; read, never written.
IQ2_BN = TensorType("IQ2_BN", 135, 64, 16)

# What bitnet.cpp has beside I2_S, and why it is not written.
_REFUSED = {
    name: f"{name} is cut into tiles for kernels that bitnet.cpp generates for one machine and a "
    "few shapes, which the file does not tell; use i2_s, which bitnet.cpp runs too"
    for name in ("tl1", "tl2")
}
_ALIASES = {"i2s": "i2_s", "tq1": "tq1_0", "tq2": "tq2_0"}
TERNARY_TYPES = {"tq2_0": TQ2_0, "tq1_0": TQ1_0, "i2_s": I2_S}
EMBED_TYPES = {
    "q4_0": Q4_0,
    "q6_k": Q6_K,
    "q8_0": Q8_0,
    "f16": F16,
    "bf16": BF16,
    "f32": F32,
}
ALL_TYPES = {t.name: t for t in (F32, F16, BF16, Q4_0, Q8_0, Q6_K, TQ1_0, TQ2_0, I2_S, IQ2_BN)}

# "auto": every exact type holds the same codes. TQ2_0 comes first because mainline llama.cpp loads
# it (not I2_S) and runs it about twice as fast as TQ1_0; where rows do not fit, Q4_0 and F16 do.
_AUTO = (TQ2_0, Q4_0, F16)


def plain_name(name: str) -> str:
    """A type's name as the tables of this page have it."""
    key = name.lower().replace("-", "_")
    return _ALIASES.get(key, key)


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """The type of one tensor; `fallback` says why it is not the requested one."""

    type: TensorType
    fallback: str | None = None


def ternary_type(columns: int, wanted: str) -> TypeChoice:
    """Type for a ternary tensor with rows of `columns` weights.

    A row that is no multiple of the wanted type's block gets a type that represents {-s, 0, s}
    exactly all the same: Q4_0 (d = s), or F16 where not even 32 divides the row. Names are
    understood in any case, `TQ2-0` too.
    """
    wanted = plain_name(wanted)
    if wanted in _REFUSED:
        raise UsageError(f"type {wanted!r}: {_REFUSED[wanted]}")
    if wanted != "auto" and wanted not in TERNARY_TYPES:
        raise UsageError(
            f"type {wanted!r} is not supported{nearest(wanted, [*TERNARY_TYPES, 'auto'])}; "
            f"choose auto, {', '.join(TERNARY_TYPES)}"
        )
    first = _AUTO[0] if wanted == "auto" else TERNARY_TYPES[wanted]
    chosen = next(t for t in (first, *_AUTO[1:]) if t.fits(columns))
    if chosen is first:
        return TypeChoice(chosen)
    return TypeChoice(
        chosen, f"rows of {columns} are not a multiple of {first.name}'s block of {first.block}"
    )


@dataclass(frozen=True, slots=True)
class TypeShare:
    """One line of the summary."""

    type: str
    tensors: int
    parameters: int
    share: float  # of all parameters
    num_bytes: int
    bits_per_weight: float


def type_shares(tensors: Iterable[tuple[str, int, int]]) -> list[TypeShare]:
    """What each type takes, largest share first; `tensors` are (type, parameters, bytes)."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for name, parameters, num_bytes in tensors:
        groups.setdefault(name, []).append((parameters, num_bytes))
    total = sum(parameters for group in groups.values() for parameters, _ in group)
    shares = []
    for name, group in sorted(groups.items()):
        parameters, num_bytes = (sum(column) for column in zip(*group, strict=True))
        bits = 8 * num_bytes / parameters
        shares.append(TypeShare(name, len(group), parameters, parameters / total, num_bytes, bits))
    return sorted(shares, key=lambda share: -share.parameters)
