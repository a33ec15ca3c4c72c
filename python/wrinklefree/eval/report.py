"""What an evaluation says, as JSON and as the table of lm-eval with more columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wrinklefree.eval.estimates import Estimate, Metric, estimate, paired_delta, unpaired_delta
from wrinklefree.eval.outcome import Counts, Outcome, Task

HEADER = ("Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr", "95 %", "n")
TEACHER_HEADER = ("Teacher", "Delta", "Delta 95 %")
TASK_VERSION = "1"  # of prompts and choices in data/glue.py; scores of two versions do not compare


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task. `delta` is model minus teacher, of the metrics that compare."""

    name: str
    data: str
    protocol: dict[str, Any]
    counts: Counts
    metrics: dict[str, Estimate]
    higher_is_better: dict[str, bool]
    baselines: dict[str, dict[str, Estimate]]
    teacher: dict[str, Estimate] | None = None
    teacher_counts: Counts | None = None
    delta: dict[str, Estimate] | None = None

    @classmethod
    def of(cls, task: Task, outcome: Outcome, teacher: Outcome | None) -> TaskReport:
        metrics = {metric.name: estimate(metric) for metric in outcome.metrics}
        directions = {metric.name: metric.higher_is_better for metric in outcome.metrics}
        report = (task.name, task.data, task.protocol, outcome.counts, metrics, directions)
        if teacher is None:
            return cls(*report, task.baselines)
        is_paired = outcome.examples == teacher.examples
        pairs = zip(outcome.metrics, teacher.metrics, strict=True)
        deltas = {model.name: _delta(model, other, is_paired) for model, other in pairs}
        return cls(
            *report,
            task.baselines,
            {metric.name: estimate(metric) for metric in teacher.metrics},
            teacher.counts,
            {name: delta for name, delta in deltas.items() if delta is not None},
        )


@dataclass(frozen=True, slots=True)
class Report:
    """All tasks of one model, and of the teacher beside it."""

    model: str
    backend: str
    results: Sequence[TaskReport]
    teacher: str | None = None
    teacher_backend: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One object; `results` by task name."""
        head = asdict(self)
        results = {}
        for entry in head.pop("results"):
            name = entry.pop("name")
            results[name] = {field: value for field, value in entry.items() if value is not None}
        return {**{key: value for key, value in head.items() if value}, "results": results}

    def table(self) -> list[str]:
        """Lines of a Markdown table; rows of baselines have the filter `baseline`."""
        header = HEADER if self.teacher is None else HEADER + TEACHER_HEADER
        rows = [row for task in self.results for row in _rows(task)]
        return markdown_table(header, [row[: len(header)] for row in rows])

    def notes(self) -> list[str]:
        """One line per task: data, and what was done to the inputs."""
        lines = []
        for task in self.results:
            note = f"{task.name}: {task.data}; {_counts_note(task.counts)}"
            if task.teacher_counts is not None and task.teacher_counts != task.counts:
                note += f"; teacher: {_counts_note(task.teacher_counts)}"
            lines.append(note)
            if task.delta is not None and task.delta.keys() != task.metrics.keys():
                lines.append(
                    f"{task.name}: the teacher's tokenizer cuts this text otherwise; only "
                    f"{', '.join(task.delta)} compares (with --limit on other parts of the text)"
                )
        return lines


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Padded lines: the first column is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"|{'|'.join([first, *rest])}|"

    # One dash is the least that Markdown takes, beside the colon of a column aligned right.
    widths = [max(width, 2) for width in widths]
    ruler = "|".join("-" * (width - (i > 0)) + ":" * (i > 0) for i, width in enumerate(widths))
    return [line(header), f"|{ruler}|", *map(line, rows)]


def _delta(model: Metric, teacher: Metric, is_paired: bool) -> Estimate | None:
    """None where the two do not compare."""
    if is_paired:
        return paired_delta(model, teacher)
    return None if model.is_per_token else unpaired_delta(model, teacher)


def _rows(task: TaskReport) -> list[list[str]]:
    named = [(name, "none", value) for name, value in task.metrics.items()]
    named += [
        (name, f"baseline: {baseline}", value)
        for baseline, values in task.baselines.items()
        for name, value in values.items()
    ]
    return [
        [
            task.name if index == 0 else "",
            TASK_VERSION if index == 0 else "",
            filter_name,
            "0",
            name,
            "↑" if task.higher_is_better.get(name, True) else "↓",
            _number(value.value),
            "±",
            "N/A" if value.stderr is None else _number(value.stderr),
            _span(value),
            str(task.counts.examples),
            *(_teacher_cells(task, name) if filter_name == "none" else ("", "", "")),
        ]
        for index, (name, filter_name, value) in enumerate(named)
    ]


def _teacher_cells(task: TaskReport, metric: str) -> tuple[str, str, str]:
    if task.teacher is None or task.delta is None:
        return "", "", ""
    score = _number(task.teacher[metric].value)
    if metric not in task.delta:
        return score, "N/A", "N/A"
    delta = task.delta[metric]
    return score, _number(delta.value, "+"), _span(delta, "+")


def _number(value: float, sign: str = "") -> str:
    return f"{round(value, 4) + 0.0:{sign}.4f}"  # + 0.0: no minus before a zero


def _span(value: Estimate, sign: str = "") -> str:
    if value.low is None or value.high is None:
        return "N/A"
    return f"{_number(value.low, sign)} to {_number(value.high, sign)}"


def _counts_note(counts: Counts) -> str:
    unfinished = f", {counts.unfinished} answers cut at the limit" if counts.unfinished else ""
    return (
        f"context {counts.context}, {counts.tokens} tokens, {counts.truncated} inputs truncated"
        f"{unfinished}, {counts.with_bos} with begin token, no chat template"
    )
