"""Bytes of ternary blocks beside those of independent encoders, one weight set at each position.

The encoders: ggml's own C code in the package libgguf, the gguf package's numpy code, and the files
of the fixtures, which bitnet.cpp and ggml wrote. Formulas of our own are in test_codec.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from wrinklefree import _engine
from wrinklefree.convert.codec import decode, dense_bytes, encode
from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.convert.types import I2_S, Q4_0, Q6_K, TQ1_0, TQ2_0, TensorType

SCALE = np.float32(0.0625)
Judge = tuple[
    Callable[[np.ndarray, TensorType], np.ndarray], Callable[[np.ndarray, TensorType], np.ndarray]
]


def numpy_judge() -> Judge:
    """The gguf package: encoder and decoder in numpy."""

    def encoder(values: np.ndarray, kind: TensorType) -> np.ndarray:
        found: np.ndarray = gguf.quantize(values, gguf.GGMLQuantizationType(kind.type_id))
        return found

    def decoder(raw: np.ndarray, kind: TensorType) -> np.ndarray:
        found: np.ndarray = gguf.dequantize(raw, gguf.GGMLQuantizationType(kind.type_id))
        return found

    return encoder, decoder


def c_judge() -> Judge:
    """libgguf: ggml's reference encoder and decoder in C."""
    libgguf = pytest.importorskip("libgguf", reason="not installed: pip install libgguf")

    def encoder(values: np.ndarray, kind: TensorType) -> np.ndarray:
        found: np.ndarray = libgguf.quantize_rows(values, kind.type_id)
        return found

    def decoder(raw: np.ndarray, kind: TensorType) -> np.ndarray:
        found: np.ndarray = libgguf.dequantize_rows(raw, kind.type_id)
        return found

    return encoder, decoder


def one_hot(size: int) -> np.ndarray:
    """[2 size, size]: each row has one weight, first all +1, then all -1."""
    eye = np.eye(size, dtype=np.int8)
    return np.concatenate([eye, -eye])


@pytest.mark.parametrize("judge", [numpy_judge, c_judge], ids=["gguf", "libgguf"])
@pytest.mark.parametrize("kind", [TQ1_0, TQ2_0], ids=lambda kind: kind.name)
def test_one_weight_at_every_position(kind: TensorType, judge: Callable[[], Judge]) -> None:
    encoder, decoder = judge()
    codes = one_hot(kind.block)
    ours = encode(Ternary(codes, SCALE), kind, "w").reshape(len(codes), -1)
    theirs = encoder(codes * SCALE, kind).view(np.uint8).reshape(len(codes), -1)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(decoder(ours, kind).reshape(codes.shape), codes * SCALE)


@pytest.mark.parametrize("judge", [numpy_judge, c_judge], ids=["gguf", "libgguf"])
@pytest.mark.parametrize("kind", [TQ1_0, TQ2_0, Q4_0], ids=lambda kind: kind.name)
def test_random_blocks(kind: TensorType, judge: Callable[[], Judge]) -> None:
    """All bytes of TQ blocks; of Q4_0 only the meaning: its encoder gives another scale, -8 / max,
    and would round our codes."""
    encoder, decoder = judge()
    codes = np.random.default_rng(0).integers(-1, 2, size=(64, 512)).astype(np.int8)
    ours = encode(Ternary(codes, SCALE), kind, "w").reshape(len(codes), -1)
    assert np.array_equal(decoder(ours, kind).reshape(codes.shape), codes * SCALE)
    if kind is not Q4_0:
        theirs = encoder(codes * SCALE, kind).view(np.uint8).reshape(len(codes), -1)
        assert np.array_equal(ours, theirs)


def test_q6_k_loses_no_more_than_that_of_ggml() -> None:
    encoder, decoder = c_judge()
    values = np.random.default_rng(1).normal(size=(32, 512)).astype(np.float32)
    ours = decoder(dense_bytes(values, Q6_K).reshape(len(values), -1), Q6_K)
    theirs = decoder(encoder(values, Q6_K), Q6_K)
    lost, they_lost = (np.linalg.norm(found - values) for found in (ours, theirs))
    assert lost < 1.05 * they_lost


@pytest.mark.parametrize("kind", [TQ1_0, TQ2_0], ids=lambda kind: kind.name)
def test_files_of_ggml(data_dir: Path, kind: TensorType) -> None:
    """Both ways: the file's bytes are the codes of the exact model, and those codes its bytes."""
    fixture = data_dir / "ternary_gguf_fixture"
    exact = {t.name: t for t in gguf.GGUFReader(fixture / "rand256-f16.gguf").tensors}
    file = _engine.GgufFile(str(fixture / f"rand256-{kind.name.lower()}.gguf"))
    ternary = [info for info in file.tensors if info.type == kind.name]
    assert len(ternary) == 14
    for info in ternary:
        raw = file.read(info.name)
        found = decode(raw, kind, info.shape, info.name)
        values = exact[info.name].data.astype(np.float32)
        assert np.array_equal(found.codes * found.scale, values), info.name
        assert np.array_equal(encode(found, kind, info.name), raw), info.name


def test_files_of_bitnet_cpp(data_dir: Path) -> None:
    """Its I2_S encoder met every code at every place of the 128 in a block."""
    fixture = data_dir / "i2s_fixture"
    exact = {t.name: t for t in gguf.GGUFReader(fixture / "bitnet-b158-f16.gguf").tensors}
    file = _engine.GgufFile(str(fixture / "bitnet-b158-i2_s.gguf"))
    met = np.zeros((3, I2_S.block), bool)
    for info in file.tensors:
        if info.type != "I2_S":
            continue
        raw = file.read(info.name)
        found = decode(raw, I2_S, info.shape, info.name)
        values = exact[info.name].data.astype(np.float32)
        assert np.array_equal(found.codes * found.scale, values), info.name
        codes_bytes = info.nbytes - 32
        ours = encode(found, I2_S, info.name)
        assert np.array_equal(ours[: codes_bytes + 4], raw[: codes_bytes + 4]), info.name
        assert not ours[codes_bytes + 4 :].any()
        for code in (-1, 0, 1):
            met[code + 1] |= (found.codes.reshape(-1, I2_S.block) == code).any(axis=0)
    assert met.all()
