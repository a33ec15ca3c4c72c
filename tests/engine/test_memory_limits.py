"""No memory and no threads from the system: one typed error, never the end of the process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.sparse_models import write_sparse_gguf

# In a process of its own, with so many MiB of address space beside what it has.
PROGRAM = """
import resource, sys
from wrinklefree import LLM, _engine
path, mib, kind, threads = sys.argv[1:]
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (int(mib) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    _engine.GgufFile(path) if kind == "file" else LLM(path, threads=int(threads))
    print("opened")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def outcome(path: Path, *, mib: int, kind: str = "file", threads: int = 1) -> str:
    """What opening `path` ended with, in one line."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, str(mib), kind, str(threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def write_array(path: Path, item_type: int, item_bytes: int, num_bytes: int) -> Path:
    """A GGUF file without tensors whose metadata is an array of zeros, not on the disk."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    path.write_bytes(head + struct.pack("<IIQ", 9, item_type, num_bytes // item_bytes))
    os.truncate(path, path.stat().st_size + num_bytes)
    return path


UINT8, INT16, BOOL, INT64 = (0, 1), (3, 2), (7, 1), (11, 8)


@pytest.mark.parametrize("kind", [UINT8, INT16, BOOL, INT64], ids=["u8", "i16", "bool", "i64"])
def test_an_array_takes_as_much_memory_as_file(tmp_path: Path, kind: tuple[int, int]) -> None:
    path = write_array(tmp_path / "a.gguf", *kind, 128 << 20)
    assert outcome(path, mib=160) == "opened"


def test_metadata_that_memory_does_not_hold(tmp_path: Path) -> None:
    path = write_array(tmp_path / "a.gguf", *UINT8, 1 << 30)
    line = outcome(path, mib=160)
    assert line.startswith("FormatError: ")
    assert line.endswith("a.gguf: memory does not suffice for its metadata and tensor table")


def test_weights_that_memory_does_not_hold(tmp_path: Path) -> None:
    path = write_sparse_gguf(tmp_path / "m.gguf", layers=1, hidden=2048, ffn=256, vocab=1 << 17)
    line = outcome(path, mib=64, kind="model")
    assert line.startswith("WrinklefreeError: ")
    assert line.endswith("m.gguf: memory does not suffice for its weights")


def test_threads_that_the_system_does_not_give(stories_dir: Path) -> None:
    """Each wants some MiB of address space for its stack."""
    line = outcome(stories_dir, mib=300, kind="model", threads=256)
    assert line.startswith("WrinklefreeError: the system gives no more than ")
    assert " of 256 threads (" in line
