"""What the ops take: the threads that torch gives them, and memory for what they return."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wrinklefree import ops

MIB = 1 << 20
STATUS = Path("/proc/self/status")
RESET_PEAK = Path("/proc/self/clear_refs")

pytestmark = pytest.mark.skipif(
    not RESET_PEAK.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="reads Linux's /proc, trims glibc's heap",
)

# In a process of its own, where nothing has started threads yet: they stay once they are there.
COUNT_THREADS = """
import os
import torch
from wrinklefree import ops

x, codes = torch.randn(64, 512), torch.ones(512, 512, dtype=torch.int8)
torch.set_num_threads(1)
before = len(os.listdir("/proc/self/task"))
for threads in (1, 3):
    torch.set_num_threads(threads)
    for layout in ("t2", "t1", "lut"):
        packed = ops.pack_ternary(codes, torch.tensor(1.0), layout)
        ops.ternary_linear(x, packed, torch.tensor(1.0), 512, layout=layout)
    ops.quantize_act_int8(x.repeat(16, 1))
    ops.fake_quant_act(x.repeat(16, 1), 0.5)
    ops.fake_quant_ternary(x.repeat(16, 1), 0.5)
    print(len(os.listdir("/proc/self/task")) - before)
"""


def test_only_the_threads_that_torch_was_told_to_use() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["0", "2"]


def memory(field: str) -> int:
    """Bytes of VmRSS, what lies in memory now, or VmHWM, the most there was."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == f"{field}:")


def peak_bytes(run: Callable[[], object]) -> int:
    """What `run` adds to the memory of this process, its result included."""
    # Pages that earlier tests freed but malloc kept would be used again without being counted.
    ctypes.CDLL(None).malloc_trim(0)
    RESET_PEAK.write_text("5")
    before = memory("VmRSS")
    result = run()
    peak = memory("VmHWM") - before
    del result
    return peak


# Many activations and few outputs, and the other way round.
SHAPES = [(8192, 5120, 32), (64, 64, 262144)]


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
@pytest.mark.parametrize("layout", ["t2", "t1", "lut"])
def test_linear_takes_its_output_and_its_codes(
    layout: ops.KernelLayout, m: int, k: int, n: int
) -> None:
    x, codes = torch.randn(m, k), torch.ones(n, k, dtype=torch.int8)
    packed, scale = ops.pack_ternary(codes, torch.tensor(1.0), layout), torch.tensor(1.0)
    ops.ternary_linear(x[:2], packed, scale, n, layout=layout)
    peak = peak_bytes(lambda: ops.ternary_linear(x, packed, scale, n, layout=layout))
    needed = 4 * m * n + m * k
    assert 0.9 * needed < peak < needed + 4 * MIB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_ops_take_their_output(dtype: torch.dtype) -> None:
    x = torch.randn(4608, 4096).to(dtype)
    for op in (ops.fake_quant_ternary, ops.fake_quant_act):
        op(x[:2], 0.5)
        peak = peak_bytes(lambda op=op: op(x, 0.5))
        assert 0.9 * x.nbytes < peak < x.nbytes + 4 * MIB


def test_quantize_takes_its_output() -> None:
    x = torch.randn(8192, 5120)
    ops.quantize_act_int8(x[:2])
    peak = peak_bytes(lambda: ops.quantize_act_int8(x))
    assert 0.9 * x.numel() < peak < x.numel() + 4 * MIB
