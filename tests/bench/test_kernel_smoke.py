"""Records speeds beside torch's int8 linear; judges none, as a shared machine would fail it.

`pytest tests/ops/test_speed_record.py --benchmark-json PATH` keeps them; the real bench is
bench/ops.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from problems import QWEN3
from products import COPIES, LAYOUTS, int8, ternary
from rounds import measure
from wrinklefree import _engine, ops


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """OpenMP waits a time slice for every call when another program has a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_record(layout: ops.KernelLayout, rows: int, benchmark: Any) -> None:
    linear = QWEN3.linears[-1]
    codes = torch.randint(-1, 2, (linear.n, linear.k)).to(torch.int8)
    ours, theirs = ternary(codes, torch.tensor(0.02), layout), int8(codes, torch.tensor(0.02))
    x = torch.randn(rows, linear.k)
    run = partial(ours.run, x, COPIES)
    rounds = measure({"ours": run, "int8": partial(theirs.run, x, COPIES)}, repeats=3)
    ratio = rounds.median_s("int8") / rounds.median_s("ours")
    benchmark.extra_info |= {
        "isa": _engine.cpu_info()["isa"],
        "weight_bytes": ours.copy_bytes * COPIES,
        "ratio_to_torch_int8": ratio,
    }
    benchmark.pedantic(run, rounds=3)
    assert ratio > 0
