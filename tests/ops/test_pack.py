"""Packing against independent writers: gguf.quants, transformers, bitnet.cpp's own file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from wrinklefree import ops

LAYOUTS = ["t2", "t1", "lut", "i2s", "tq1_0", "tq2_0", "q4_0", "hf"]


def random_codes(n: int, k: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(-1, 2, (n, k), generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(layout: ops.Layout) -> None:
    codes, scale = random_codes(6, 512), torch.tensor(0.0625)
    packed = ops.pack_ternary(codes, scale, layout)
    back, back_scale = ops.unpack_ternary(packed, layout, 6, 512)
    assert torch.equal(back, codes)
    assert float(back_scale) == (1.0 if layout in ("t2", "t1", "lut", "hf") else 0.0625)


@pytest.mark.parametrize("layout", ["tq1_0", "tq2_0"])
def test_bytes_equal_those_of_gguf(layout: ops.Layout) -> None:
    codes = random_codes(5, 768)
    codes[2, 256:512] = 0  # a block without a scale of its own
    values = codes.numpy().astype(np.float32) * np.float32(0.0625)
    expected = quantize(values, gguf.GGMLQuantizationType[layout.upper()])
    packed = ops.pack_ternary(codes, torch.tensor(0.0625), layout)
    assert packed.numpy().tobytes() == expected.tobytes()


def test_q4_0_bytes_mean_the_codes_to_gguf() -> None:
    codes = random_codes(5, 576)
    packed = ops.pack_ternary(codes, torch.tensor(0.0625), "q4_0")
    rows = packed.numpy().reshape(5, -1)
    values = dequantize(rows, gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(values, codes.numpy().astype(np.float32) * np.float32(0.0625))


@pytest.mark.parametrize("n", [4, 8, 12])
def test_hf_bytes_equal_those_of_transformers(n: int) -> None:
    from transformers.integrations.bitnet import pack_weights

    codes = random_codes(n, 10)
    packed = ops.pack_ternary(codes, torch.tensor(1.0), "hf")
    assert torch.equal(packed.reshape(-1, 10), pack_weights(codes.clone()))


@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_hf_keeps_rows_that_are_no_multiple_of_four(n: int) -> None:
    codes = random_codes(n, 10)
    packed = ops.pack_ternary(codes, torch.tensor(1.0), "hf")
    assert torch.equal(ops.unpack_ternary(packed, "hf", n, 10)[0], codes)


def test_i2s_bytes_written_by_bitnet_cpp(data_dir: Path) -> None:
    from wrinklefree import _engine

    truth = _engine.GgufFile(str(data_dir / "i2s_fixture/bitnet-b158-f16.gguf"))
    packed = _engine.GgufFile(str(data_dir / "i2s_fixture/bitnet-b158-i2_s.gguf"))
    checked = 0
    for tensor in packed.tensors:
        if tensor.type != "I2_S":
            continue
        n, k = tensor.shape
        values = np.frombuffer(truth.read(tensor.name).tobytes(), dtype=np.float16).reshape(n, k)
        data = torch.from_numpy(packed.read(tensor.name).copy())
        codes, scale = ops.unpack_ternary(data, "i2s", n, k)
        assert np.array_equal(codes.numpy(), np.sign(values).astype(np.int8)), tensor.name
        assert float(scale) == float(np.abs(values.astype(np.float32)).max())
        # The 28 bytes after the scale are padding, which the other tool leaves undefined.
        again = ops.pack_ternary(codes, scale, "i2s")
        assert torch.equal(again[: n * k // 4 + 4], data[: n * k // 4 + 4]), tensor.name
        checked += 1
    assert checked == 14


def test_what_a_layout_cannot_hold_is_refused() -> None:
    with pytest.raises(RuntimeError, match="whole blocks"):
        ops.pack_ternary(random_codes(2, 100), torch.tensor(1.0), "tq2_0")
    with pytest.raises(RuntimeError, match="code 2 at element 0"):
        ops.pack_ternary(torch.full((1, 4), 2, dtype=torch.int8), torch.tensor(1.0), "t2")
    with pytest.raises(RuntimeError, match="unknown layout 'tl9'"):
        ops.pack_ternary(random_codes(2, 4), torch.tensor(1.0), "tl9")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no ternary matrix"):
        ops.unpack_ternary(torch.full((64,), 255, dtype=torch.uint8), "t2", 16, 16)
    with pytest.raises(RuntimeError, match="has 64 bytes"):
        ops.unpack_ternary(torch.zeros(63, dtype=torch.uint8), "t2", 16, 16)
