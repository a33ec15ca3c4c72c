"""What a call of an op costs apart from its arithmetic: 16 x 16, where there is next to none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from wrinklefree import ops

SIZE = 16


def median_us(call: Callable[[], object], calls: int, batches: int = 15) -> float:
    """Median over batches of the mean of `calls` calls; one batch first to warm up."""
    means = []
    for _ in range(batches + 1):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        means.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(means[1:])


def call_overheads_us(calls: int) -> dict[str, float]:
    """Microseconds of one call on one thread, of our ops and of torch's smallest linear layer."""
    x, w = torch.randn(1, SIZE), torch.randn(SIZE, SIZE)
    codes, scale = ops.ternary_quantize(w)
    packed = ops.pack_ternary(codes, scale, "t2")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            name: median_us(call, calls)
            for name, call in {
                "ternary_linear": lambda: ops.ternary_linear(x, packed, scale, SIZE),
                "quantize_act_int8": lambda: ops.quantize_act_int8(x),
                "torch_linear": lambda: torch.nn.functional.linear(x, w),
            }.items()
        }
    finally:
        torch.set_num_threads(before)
