"""The linear layers that bench/ops.py times: ours in each layout, torch's in bf16 and int8."""

from __future__ import annotations

import math
import mmap
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from wrinklefree import ops

LAYOUTS: tuple[ops.KernelLayout, ...] = ("t2", "t1", "lut")
# No copy is used twice in a pass, and the bandwidth loops between two passes clear the caches.
COPIES = 8
Call = Callable[[torch.Tensor], torch.Tensor]


class Product(NamedTuple):
    """One weight matrix COPIES times in memory; calls[i] multiplies by copy i."""

    copy_bytes: int
    calls: list[Call]

    def run(self, x: torch.Tensor, calls: int) -> None:
        for call in self.calls[:calls]:
            call(x)


def in_huge_pages(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copies that lie one after the other in huge pages, as the engine keeps its weights."""
    starts, size = [], 0
    for tensor in tensors:
        starts.append(size)
        size += math.ceil(tensor.nbytes / 64) * 64
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return [
        torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start)
        .view(tensor.shape)
        .copy_(tensor)
        for start, tensor in zip(starts, tensors, strict=True)
    ]


def ternary(codes: torch.Tensor, scale: torch.Tensor, layout: ops.KernelLayout) -> Product:
    packed = ops.pack_ternary(codes, scale, layout)
    call, n = ops.ternary_linear, codes.shape[0]
    return Product(
        packed.nbytes,
        [
            partial(call, packed=w, scale=scale, n=n, layout=layout)
            for w in in_huge_pages([packed] * COPIES)
        ],
    )


def bf16(codes: torch.Tensor, scale: torch.Tensor) -> Product:
    dense = (codes * scale).bfloat16()

    def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x.bfloat16(), w)

    return Product(dense.nbytes, [partial(call, w=w) for w in in_huge_pages([dense] * COPIES)])


def int8(codes: torch.Tensor, scale: torch.Tensor) -> Product:
    """torch's dynamically quantized linear; torch._int_mm was 15 times slower without VNNI."""
    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = "x86" if "x86" in engines else "qnnpack"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors are deprecated, the kernels are there
        w = torch.quantize_per_tensor(codes * scale, scale.item(), 0, torch.qint8)
        prepack, linear = torch.ops.quantized.linear_prepack, torch.ops.quantized.linear_dynamic
        copies = [prepack(w, None) for _ in range(COPIES)]
    # 7-bit activations: AVX2 sums pairs of products in int16.
    return Product(codes.numel(), [partial(linear, W_prepack=w, reduce_range=True) for w in copies])
