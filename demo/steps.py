"""A chain of commands that can be interrupted and started again."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from wrinklefree.errors import WrinklefreeError


@dataclass(frozen=True, slots=True)
class Step:
    """One command line of the package; the paths are below the work folder."""

    title: str
    command: tuple[str, ...]
    result: Path | None = None  # file for its output
    made: Path | None = None  # directory that it makes, and that it continues when interrupted


class Chain:
    """Runs steps in order and skips those that are done.

    A step is known by its command and all commands before it. One that has finished here before is
    skipped. One that was interrupted runs again on the directory it was making: wf-train continues
    from its checkpoint there. What another command made is removed first.
    """

    def __init__(self, work: Path, console: Console, *, num_steps: int) -> None:
        self._work = work
        self._num_steps = num_steps
        self._number = 0
        self._console = console
        self._started = _Keys(work / "started.json")
        self._done = _Keys(work / "done.json")
        self._history = hashlib.sha256()

    def run(self, steps: Sequence[Step]) -> None:
        """Run what is not done yet. Raises WrinklefreeError when a command fails."""
        for step in steps:
            self._number += 1
            self._history.update(repr(step).encode())
            key = self._history.hexdigest()
            label = f"[{self._number}/{self._num_steps}] {step.title}"
            if self._done.has(step.title, key):
                self._console.print(f"{label}: done before", style="dim")
                continue
            self._console.print(label, style="bold", highlight=False)
            self._console.print(f"    {shlex.join(step.command)}", style="dim", markup=False)
            if step.made is not None and not self._started.has(step.title, key):
                shutil.rmtree(self._work / step.made, ignore_errors=True)
            self._started.put(step.title, key)
            start = time.monotonic()
            self._execute(step)
            self._console.print(f"    {time.monotonic() - start:.0f} s", style="dim")
            self._done.put(step.title, key)

    def _execute(self, step: Step) -> None:
        program = Path(sys.executable).with_name(step.command[0])
        argv = [str(program), *step.command[1:]]
        # stderr stays on the terminal: progress bars and log lines of the command are shown there.
        result = subprocess.run(argv, cwd=self._work, stdout=subprocess.PIPE, text=True)
        if result.returncode:
            raise WrinklefreeError(f"'{step.title}' failed with exit code {result.returncode}")
        if step.result is not None:
            (self._work / step.result).write_text(result.stdout)


class _Keys:
    """Key of each step by its title, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def has(self, title: str, key: str) -> bool:
        return self._keys.get(title) == key

    def put(self, title: str, key: str) -> None:
        self._keys[title] = key
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._keys, indent=1), encoding="utf-8")
        partial.replace(self._path)
