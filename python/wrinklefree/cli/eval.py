"""wf-eval MODEL --tasks sst2,mnli,ppl,FILE.jsonl: scores of a model, and of its teacher."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wrinklefree.cli.command import Command, json_option, verbose_option, version_option
from wrinklefree.errors import UsageError, WrinklefreeError

if TYPE_CHECKING:
    from wrinklefree.eval.backend import Backend
    from wrinklefree.eval.outcome import Outcome, Progress, Task
    from wrinklefree.eval.report import Report

EXAMPLES = """
wf-eval runs/s3 --tasks sst2,mnli,qnli,rte,mrpc,cola --data glue/ --teacher runs/sft --card
wf-eval student.gguf --tasks val.jsonl --train train.jsonl --limit 200 --json
wf-eval http://127.0.0.1:8080 --tasks sst2 --data glue/ --limit 200
wf-eval student.gguf --tasks ppl --data wiki.test.raw --context 512
wf-eval runs/sum --tasks cnn_dailymail --data data/ --limit 500 --context 640
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("model")
@click.option(
    "--tasks",
    required=True,
    help="Comma-separated: sst2, mnli, mnli_mismatch, qnli, rte, mrpc, cola, cnn_dailymail, ppl, "
    'or JSONL files of {"prompt", "choices", "label"} records.',
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Text or JSONL file for ppl; for the other tasks a folder with sst2/validation.jsonl and "
    "so on (default: the hub). Repeatable.",
)
@click.option("--teacher", help="Another MODEL to compare with, on the same inputs.")
@click.option(
    "--train",
    type=click.Path(path_type=Path),
    help="Choice records for the majority and bag-of-words baselines of JSONL tasks.",
)
@click.option("--limit", type=click.IntRange(min=1), help="First N records, or windows for ppl.")
@click.option("--context", type=click.IntRange(min=2), help="Tokens per window or question.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Of a generated summary.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "engine"]),
    default="auto",
    show_default=True,
    help="auto: the engine for a .gguf, torch for a directory; a URL is asked itself.",
)
@click.option("--revision", help="Of a MODEL on the hub.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Questions that are asked at once; changes no score.",
)
@click.option("--card", is_flag=True, help="Write the table into the README.md of MODEL.")
@json_option
@verbose_option
@version_option("wf-eval")
def main(
    model: str,
    tasks: str,
    data: Sequence[Path],
    teacher: str | None,
    train: Path | None,
    limit: int | None,
    context: int | None,
    max_tokens: int,
    backend: str,
    revision: str | None,
    batch: int,
    card: bool,
    as_json: bool,
) -> None:
    """Measure MODEL: an artifact, Hugging Face directory or hub id (torch), a .gguf (engine), or
    the URL of a server.

    Choice tasks are answered by the largest summed log-likelihood. Every score and every delta to
    the teacher has its 95 % interval; truncated inputs are counted.
    """
    from wrinklefree.eval.backend import open_backend
    from wrinklefree.eval.sources import DataPaths
    from wrinklefree.eval.tasks import NAMES, open_task

    names = _names(tasks)
    if data and not set(names) & set(NAMES):
        raise UsageError("--data belongs to tasks by name; a JSONL task is its own data")
    if train and not set(names) - set(NAMES):
        raise UsageError("--train belongs to JSONL tasks")
    paths = DataPaths.of(data)
    opened = [
        open_task(name, paths, train=train, limit=limit, max_tokens=max_tokens) for name in names
    ]
    if card:
        from wrinklefree.eval.card import add_scores, check_card

        if not Path(model).is_dir():
            raise UsageError(f"--card writes into an artifact directory, {model} is none")
        check_card(Path(model))
    most = None if teacher is None else _context_of(teacher, context)
    evaluation = _Evaluation(opened, context, batch, as_json)
    try:
        with closing(open_backend(model, backend=backend, revision=revision)) as student:
            most = student.max_context = min(student.max_context, most or student.max_context)
            evaluation.run(student, model)
        if teacher is not None:
            with closing(open_backend(teacher)) as other:
                other.max_context = most  # the same inputs for both
                evaluation.run(other, teacher)
    finally:
        # Hours of finished tasks are not lost to an error in the next one.
        report = evaluation.report()
        if report is not None:
            _show(report, as_json)
    if card and report is not None:
        add_scores(Path(model), report)


def _context_of(teacher: str, asked: int | None) -> int:
    """A wrong --teacher, or one with too short a context, is told before anything is computed."""
    from wrinklefree.eval.backend import open_backend

    with closing(open_backend(teacher)) as opened:
        if asked is not None and asked > opened.max_context:
            raise UsageError(
                f"--context {asked} is more than the {opened.max_context} tokens of the teacher"
            )
        return opened.max_context


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Tasks, and what has been measured on them so far."""

    tasks: Sequence[Task]
    context: int | None
    batch: int
    is_quiet: bool
    measured: list[tuple[str, str, list[Outcome]]] = field(default_factory=list)

    def run(self, backend: Backend, model: str) -> None:
        outcomes: list[Outcome] = []
        self.measured.append((model, backend.name, outcomes))
        for task in self.tasks:
            with _progress(f"{task.name} of {model}", self.is_quiet) as show:
                try:
                    outcomes.append(
                        task.run(backend, context=self.context, batch=self.batch, progress=show)
                    )
                except WrinklefreeError as error:
                    raise type(error)(f"{task.name} of {model}: {error}") from error

    def report(self) -> Report | None:
        """The finished tasks of the first model, and beside them those of its teacher; None when
        there is none."""
        from wrinklefree.eval.report import Report, TaskReport

        finished = [entry for entry in self.measured if entry[-1]]
        if not finished:
            return None
        (model, backend, outcomes), *teachers = finished
        beside = teachers[0][-1] if teachers else []
        pairs = zip(self.tasks, zip_longest(outcomes, beside), strict=False)
        results = [TaskReport.of(task, *pair) for task, pair in pairs]
        return Report(model, backend, results, *(teachers[0][:2] if teachers else ()))


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    beside = f", teacher {report.teacher} ({report.teacher_backend})" if report.teacher else ""
    click.echo(f"{report.model} ({report.backend}){beside}\n")
    for line in (*report.table(), "", *report.notes()):
        click.echo(line)


def _names(tasks: str) -> list[str]:
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UsageError("--tasks names no task")
    return list(dict.fromkeys(names))


@contextmanager
def _progress(title: str, is_quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line every quarter, none at all beside JSON."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bars

        with Bars(console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    quarters = 0

    def line(done: int, total: int) -> None:
        nonlocal quarters
        if not is_quiet and 4 * done // total > quarters:
            quarters = 4 * done // total
            click.echo(f"{title}: {done}/{total}", err=True)

    yield line
