"""Commands of the package, several side by side, each on cores of its own."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

Commands = tuple[Sequence[str], ...]  # run one after another


class Machine:
    """Runs commands side by side, each on cores of its own."""

    def __init__(self, jobs: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if not 1 <= jobs <= len(cores):
            raise click.UsageError(f"--jobs must be in [1, {len(cores)}], the number of cores")
        self._pool = ThreadPoolExecutor(jobs)
        self._free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        for i in range(jobs):
            self._free.put(cores[i::jobs])

    def map(self, work: Iterable[Commands]) -> list[list[str]]:
        """Outputs of the commands of each chain, which run one after another."""
        return list(self._pool.map(self._run, work))

    def _run(self, commands: Commands) -> list[str]:
        cores = self._free.get()
        try:
            return [self._call(command, cores) for command in commands]
        finally:
            self._free.put(cores)

    @staticmethod
    def _call(command: Sequence[str], cores: list[int]) -> str:
        print(" ".join(command), flush=True)
        program = Path(sys.executable).with_name(command[0])
        result = subprocess.run(
            [str(program), *command[1:]],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        if result.returncode:
            raise click.ClickException(f"{' '.join(command)}\n{result.stderr[-2000:]}")
        return result.stdout
