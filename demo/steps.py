"""A chain of commands that can be interrupted and started again."""

from __future__ import annotations

import hashlib
import json
import shlex
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
    """One command line of the package. `result`: file under the work folder for its JSON output."""

    title: str
    command: tuple[str, ...]
    result: str | None = None


class Chain:
    """Runs steps in order and skips those that are done.

    A step is done when the same command, after the same commands before it, has finished here
    before. A step that was interrupted runs again; wf-train then continues from its checkpoint.
    """

    def __init__(self, work: Path, console: Console, *, num_steps: int) -> None:
        self._work = work
        self._num_steps = num_steps
        self._number = 0
        self._console = console
        self._log = work / "done.json"
        self._done: dict[str, str] = json.loads(self._log.read_text()) if self._log.exists() else {}
        self._history = hashlib.sha256()

    def run(self, steps: Sequence[Step]) -> None:
        """Run what is not done yet. Raises WrinklefreeError when a command fails."""
        for step in steps:
            self._number += 1
            self._history.update(repr(step).encode())
            key = self._history.hexdigest()
            label = f"[{self._number}/{self._num_steps}] {step.title}"
            if self._done.get(step.title) == key:
                self._console.print(f"{label}: done before", style="dim")
                continue
            self._console.print(label, style="bold", highlight=False)
            self._console.print(f"    {shlex.join(step.command)}", style="dim", highlight=False)
            started = time.monotonic()
            self._execute(step)
            self._console.print(f"    {time.monotonic() - started:.0f} s", style="dim")
            self._done[step.title] = key
            self._log.write_text(json.dumps(self._done, indent=1))

    def _execute(self, step: Step) -> None:
        program = Path(sys.executable).with_name(step.command[0])
        argv = [str(program), *step.command[1:]]
        # stderr stays on the terminal: progress bars and log lines of the command are shown there.
        result = subprocess.run(argv, cwd=self._work, stdout=subprocess.PIPE, text=True)
        if result.returncode:
            raise WrinklefreeError(f"'{step.title}' failed with exit code {result.returncode}")
        if step.result is not None:
            (self._work / step.result).write_text(result.stdout)
