"""Memory that a step freed is there for the next one, without page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from wrinklefree.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    blocks = [torch.zeros(megabytes << 18) for megabytes in (8, 40, 120, 8)]
    return sum(block.numel() for block in blocks)
for _ in range(4):  # what starts with the first one, threads for instance, leaves gaps
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_a_later_step_has_no_page_faults() -> None:
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", FAULTS, mode], text=True))
        for mode in ("default", "keep")
    }
    assert faults["default"] > 10 * faults["keep"] + 1000, faults
