"""What a run reports: one JSON object per step in metrics.jsonl, and a line or a bar for people."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from wrinklefree.training.tracking import Tracker

log = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
PARTIAL_NAME = ".metrics.jsonl.partial"  # its successor, while it is written
HEAD = ("kind", "stage", "step")  # of every object in it
PLAIN_LINES = 20  # lines of a run that writes to a file or pipe


class MetricsLog:
    """Appends to `directory`/metrics.jsonl and tells the trackers; shows a bar on a terminal, else
    about 20 lines."""

    def __init__(
        self,
        directory: Path,
        *,
        stage: str,
        total_steps: int,
        start_step: int,
        trackers: Sequence[Tracker] = (),
        is_main: bool = True,
    ) -> None:
        """Of several processes one is main; the others' logs write and show nothing."""
        self.is_main = is_main
        self.path = directory / METRICS_NAME
        self.stage = stage
        self.total_steps = total_steps
        self.trackers = trackers
        if is_main:
            directory.mkdir(parents=True, exist_ok=True)
            kept = _drop_lines_from(self.path, start_step)
            for entry in kept:
                # TensorBoard hides the numbers that an interrupted run wrote from here on (texts
                # stay), and those of the checkpoint's step are not measured again.
                if entry["step"] == start_step and entry["kind"] == "eval":
                    values = {name: entry[name] for name in entry if name not in HEAD}
                    for tracker in self.trackers:
                        tracker.write("eval", start_step, values)
        self._start_step = start_step
        self._began = time.monotonic()
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> MetricsLog:
        if self.is_main and sys.stderr.isatty():
            self._progress = Progress(
                TextColumn(self.stage),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[summary]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._progress.add_task(
                self.stage, total=self.total_steps, completed=self._start_step, summary=""
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        for tracker in self.trackers:
            tracker.close()

    def write(self, kind: str, step: int, **values: float) -> None:
        """Append one object: kind ("train" or "eval"), stage, step and the values."""
        self._append({"kind": kind, "stage": self.stage, "step": step, **values})
        for tracker in self.trackers:
            tracker.write(kind, step, values)

    def write_samples(self, step: int, samples: list[dict[str, str]]) -> None:
        """Append one object a text, kind "sample", and show the first to people."""
        for sample in samples:
            self._append({"kind": "sample", "stage": self.stage, "step": step, **sample})
        for tracker in self.trackers:
            tracker.write_text(step, samples)
        log.info("step %d writes: %r", step, samples[0]["prompt"] + samples[0]["text"])

    def _append(self, entry: dict[str, Any]) -> None:
        if not self.is_main:
            return
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")

    def show(self, step: int, **values: float) -> None:
        """Tell people about a finished step."""
        summary = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        done = step + 1
        if self._progress is not None:
            self._progress.update(self._task, completed=done, summary=summary)
        elif done % math.ceil(self.total_steps / PLAIN_LINES) == 0 or done == self.total_steps:
            line = "%s step %d/%d: %s eta %s"
            log.info(line, self.stage, done, self.total_steps, summary, self._eta(done))

    def _eta(self, done: int) -> str:
        """Time left at the pace so far, as h:mm:ss."""
        pace = (time.monotonic() - self._began) / (done - self._start_step)
        return str(timedelta(seconds=round(pace * (self.total_steps - done))))


def _drop_lines_from(path: Path, step: int) -> list[dict[str, Any]]:
    """Forget what an interrupted run logged after its last checkpoint: those steps come again.

    Returns the entries that stay.
    """
    if not path.is_file():
        return []
    lines, kept = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the run died
        # A checkpoint is written after the evaluation and samples of its step, before its training;
        # there is none at step 0, where all comes again.
        is_in_checkpoint = entry["step"] == step > 0 and entry["kind"] != "train"
        if entry["step"] < step or is_in_checkpoint:
            lines.append(line + "\n")
            kept.append(entry)
    partial = path.with_name(PARTIAL_NAME)
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
    return kept


def num_tokens(path: Path) -> int | None:
    """Tokens that the steps in a metrics.jsonl read; None if no step did, as in stage1_subln."""
    if not path.is_file():
        return None
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    counts = [entry["tokens"] for entry in entries if entry["kind"] == "train"]
    return sum(counts) if counts else None
