"""Ceilings of this machine, measured in this process: compiles ceilings.cpp with $CXX and calls it;
the engine has the multiply peak.

Memory bandwidth drifts on shared hosts, so a share is taken from a kernel and its ceiling measured
side by side: `read_gbps` and its siblings are cheap to call again.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from wrinklefree import _engine

SOURCE = Path(__file__).with_name("ceilings.cpp")
LIBRARY = SOURCE.parents[1] / "build" / "bench" / "libceilings.so"
COPY_KINDS = {0: "memcpy", 1: "stores", 2: "streaming stores"}


def _load() -> ctypes.CDLL:
    if not LIBRARY.exists() or LIBRARY.stat().st_mtime < SOURCE.stat().st_mtime:
        LIBRARY.parent.mkdir(parents=True, exist_ok=True)
        unfinished = LIBRARY.with_suffix(f".{os.getpid()}")
        flags = ["-std=c++20", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"]
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(unfinished)], check=True)
        unfinished.rename(LIBRARY)
    library = ctypes.CDLL(str(LIBRARY))
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.wf_map.restype = pointer
    library.wf_map.argtypes = [size, number]
    library.wf_read_s.restype = ctypes.c_double
    library.wf_read_s.argtypes = [pointer, size, number, number]
    library.wf_copy_s.restype = ctypes.c_double
    library.wf_copy_s.argtypes = [pointer, pointer, size, number, number]
    return library


class Ceilings:
    """Buffers of `mib` MiB each in huge and in small pages, and the best loop found so far."""

    def __init__(self, isa: str, threads: list[int], mib: int = 512, repeats: int = 5) -> None:
        self._isa = isa
        self.multiply_peak = _engine.multiply_peak(isa, 1)[0]  # the instruction, or ""
        self._library = _load()
        self._bytes = mib << 20
        self._huge, self._small, self._copy = (self._map(huge) for huge in (1, 0, 1))
        # Per thread count: memory and streams of the best read loop, kind of the best copy.
        self._reader: dict[int, tuple[int, int]] = {}
        self._copier: dict[int, int] = {}
        self.best: dict[int, dict[str, float]] = {}  # most ever seen, per thread count
        self.facts: dict[int, dict[str, float]] = {}  # GB/s of every loop
        for count in threads:
            self._choose(count, repeats)

    def _map(self, huge: int) -> int:
        memory: int | None = self._library.wf_map(self._bytes, huge)
        if memory is None:
            raise MemoryError(f"no {self._bytes >> 20} MiB of memory for the bandwidth loops")
        return memory

    def _choose(self, threads: int, repeats: int) -> None:
        reads = {
            (memory, streams): max(self._read(threads, memory, streams) for _ in range(repeats))
            for memory in (self._huge, self._small)
            for streams in (1, 2, 4)
        }
        copies = {
            kind: max(self._copy_gbps(threads, kind) for _ in range(repeats)) for kind in COPY_KINDS
        }
        self.best[threads] = {
            "read_gbps": max(reads.values()),
            "copy_gbps": max(copies.values()),
            "multiply_gmacs": 0.0,
        }
        self._reader[threads] = max(reads, key=lambda key: reads[key])
        self._copier[threads] = max(copies, key=lambda key: copies[key])
        self.facts[threads] = {
            **{
                f"read {'huge' if memory == self._huge else 'small'} pages, {streams} streams": gbps
                for (memory, streams), gbps in reads.items()
            },
            **{f"copy by {COPY_KINDS[kind]}": gbps for kind, gbps in copies.items()},
        }

    def _read(self, threads: int, memory: int, streams: int) -> float:
        seconds: float = self._library.wf_read_s(memory, self._bytes, threads, streams)
        return self._bytes / seconds / 1e9

    def _copy_gbps(self, threads: int, kind: int) -> float:
        seconds: float = self._library.wf_copy_s(self._copy, self._huge, self._bytes, threads, kind)
        return 2 * self._bytes / seconds / 1e9

    def _seen(self, threads: int, name: str, value: float) -> float:
        self.best[threads][name] = max(self.best[threads][name], value)
        return value

    def read_gbps(self, threads: int) -> float:
        """GB/s of one pass of the best read loop."""
        return self._seen(threads, "read_gbps", self._read(threads, *self._reader[threads]))

    def copy_gbps(self, threads: int) -> float:
        """GB/s of one pass of the best copy loop, each byte counted as read and as written."""
        return self._seen(threads, "copy_gbps", self._copy_gbps(threads, self._copier[threads]))

    def multiply_gmacs(self, threads: int) -> float:
        """10^9 int8 multiply-adds a second from registers; 0 where no loop is known."""
        return self._seen(threads, "multiply_gmacs", _engine.multiply_peak(self._isa, threads)[1])
