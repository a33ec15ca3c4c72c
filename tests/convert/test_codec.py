"""Bytes of one block with a single weight set, worked out here from the formats' descriptions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from wrinklefree.convert.codec import decode, dense_bytes, dense_values, encode, is_exact
from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.convert.types import (
    BF16,
    EMBED_TYPES,
    F16,
    F32,
    I2_S,
    Q4_0,
    Q6_K,
    Q8_0,
    TQ1_0,
    TQ2_0,
    TensorType,
)
from wrinklefree.errors import FormatError

SCALE = np.float32(0.0625)
D = list(np.float16(SCALE).tobytes())


def tq2_0(codes: list[int]) -> list[int]:
    """Two groups of 32 bytes; byte m of group g has weights 128 g + m + 32 n at bits 2 n."""
    out = [0] * 64
    for i, code in enumerate(codes):
        group, within = divmod(i, 128)
        n, m = divmod(within, 32)
        out[32 * group + m] += (code + 1) << (2 * n)
    return [*out, *D]


def tq1_0(codes: list[int]) -> list[int]:
    """Base-3 digits, first weight the most significant, scaled from 243 to 256 and rounded up."""

    def byte(digits: list[int]) -> int:
        value = 0
        for digit in digits:
            value = 3 * value + digit + 1
        return -(-value * 256 // 243)

    first = [byte([codes[m + 32 * n] for n in range(5)]) for m in range(32)]
    second = [byte([codes[160 + m + 16 * n] for n in range(5)]) for m in range(16)]
    # Four digits only: a fifth factor of 3 keeps the first one the most significant of five.
    last = [byte([*(codes[240 + j + 4 * m] for m in range(4)), -1]) for j in range(4)]
    return [*first, *second, *last, *D]


def i2_s(codes: list[int]) -> list[int]:
    """Byte p has weights p, 32 + p, 64 + p, 96 + p from the top bits down; the scale follows."""
    out = [sum((codes[32 * n + p] + 1) << (6 - 2 * n) for n in range(4)) for p in range(32)]
    return [*out, *SCALE.tobytes(), *([0] * 28)]


def q4_0(codes: list[int]) -> list[int]:
    """Scale first; byte m has weight m in the low and 16 + m in the high half, as code + 8."""
    return [*D, *((codes[m] + 8) | (codes[16 + m] + 8) << 4 for m in range(16))]


FORMATS: list[tuple[TensorType, Callable[[list[int]], list[int]]]] = [
    (TQ2_0, tq2_0),
    (TQ1_0, tq1_0),
    (I2_S, i2_s),
    (Q4_0, q4_0),
]


@pytest.mark.parametrize(("kind", "expected"), FORMATS, ids=[kind.name for kind, _ in FORMATS])
def test_one_weight_at_every_position(
    kind: TensorType, expected: Callable[[list[int]], list[int]]
) -> None:
    for position in range(kind.block):
        for value in (1, -1):
            codes = [0] * kind.block
            codes[position] = value
            wanted = Ternary(np.array([codes], np.int8), SCALE)
            raw = encode(wanted, kind, "w")
            assert raw.tolist() == expected(codes), position
            found = decode(raw, kind, (1, kind.block), "w")
            assert found.codes.tolist() == [codes]
            assert found.scale == SCALE


@pytest.mark.parametrize("kind", [TQ2_0, TQ1_0, I2_S, Q4_0, F16], ids=lambda kind: kind.name)
def test_random_codes_come_back(kind: TensorType) -> None:
    codes = np.random.default_rng(0).integers(-1, 2, size=(5, 512)).astype(np.int8)
    raw = encode(Ternary(codes, np.float32(0.1)), kind, "w")
    assert raw.nbytes == kind.num_bytes(codes.shape)
    found = decode(raw, kind, codes.shape, "w")
    assert np.array_equal(found.codes, codes)
    assert found.scale == (np.float32(0.1) if kind is I2_S else np.float32(np.float16(0.1)))


def test_blocks_of_different_scales_are_not_one_ternary_matrix() -> None:
    codes = np.ones((2, 256), np.int8)
    first = encode(Ternary(codes[:1], np.float32(0.5)), TQ2_0, "w")
    second = encode(Ternary(codes[1:], np.float32(0.25)), TQ2_0, "w")
    with pytest.raises(FormatError, match=r"w \(TQ2_0\) is not ternary"):
        decode(np.concatenate([first, second]), TQ2_0, (2, 256), "w")


def test_ordinary_q4_0_is_not_ternary() -> None:
    raw = encode(Ternary(np.ones((1, 32), np.int8), np.float32(0.5)), Q4_0, "w")
    raw[5] = 0xF3
    with pytest.raises(FormatError, match="not ternary"):
        decode(raw, Q4_0, (1, 32), "w")


def test_dense_types() -> None:
    values = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    assert is_exact(values, F32)
    assert not is_exact(values, F16)
    assert is_exact(values.astype(np.float16).astype(np.float32), F16)
    coarse = dense_values(dense_bytes(values, Q8_0), "Q8_0", values.shape)
    assert not is_exact(values, Q8_0)
    assert is_exact(coarse, Q8_0)


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Q4_0, 0.09), (Q6_K, 0.02), (Q8_0, 0.006), (BF16, 2e-3), (F16, 3e-4), (F32, 0.0)],
    ids=lambda value: getattr(value, "name", None),
)
def test_embedding_types_lose_what_their_bits_say(kind: TensorType, error: float) -> None:
    """Relative error of Gaussian rows, by the gguf package's own dequantizer."""
    assert kind in EMBED_TYPES.values()
    values = np.random.default_rng(2).normal(size=(8, 512)).astype(np.float32)
    raw = dense_bytes(values, kind)
    assert raw.size == kind.num_bytes(values.shape)
    lost = np.linalg.norm(dense_values(raw, kind.name, values.shape) - values)
    relative = float(lost / np.linalg.norm(values))
    assert 0.4 * error <= relative <= error


def test_odd_rows_of_q6_k() -> None:
    """Zeros, one outlier, groups of very different size: no NaN, and signs stay."""
    values = np.zeros((4, 256), np.float32)
    values[1, 77] = -3.0
    values[2] = np.linspace(-1, 1, 256) * np.repeat(10.0 ** -np.arange(16), 16)
    values[3] = 1e-30
    got = dense_values(dense_bytes(values, Q6_K), "Q6_K", values.shape)
    assert np.all(got[0] == 0)
    assert got[1, 77] == pytest.approx(-3.0, rel=2e-3)
    assert np.count_nonzero(got[1]) == 1
    assert np.abs(got[2] - values[2]).max() < 0.02
    assert np.all(got[3] == 0)


def test_values_beyond_float16_are_an_error() -> None:
    values = np.full((1, 32), 7e4, np.float32)
    assert not is_exact(values, F16)
    with pytest.raises(FormatError, match="--embed-type f32"):
        dense_bytes(values, F16)
