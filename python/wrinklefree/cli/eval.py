"""wf-eval MODEL --tasks FILE.jsonl|ppl: accuracy on a choice task, or perplexity."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wrinklefree.cli.command import Command, json_option, verbose_option, version_option
from wrinklefree.errors import UsageError, nearest

if TYPE_CHECKING:
    from wrinklefree.eval.backend import Backend
    from wrinklefree.eval.report import ChoiceReport, PerplexityReport

_PERPLEXITY_CONTEXT = 512

EXAMPLES = """
wf-eval runs/s3 --tasks val.jsonl --train train.jsonl --json
wf-eval student.gguf --tasks val.jsonl --limit 200
wf-eval student.gguf --tasks ppl --data wiki.test.raw --context 512
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--tasks",
    required=True,
    help='JSONL file of {"prompt", "choices", "label"} records, or "ppl" for perplexity.',
)
@click.option("--data", type=click.Path(path_type=Path), help="Text or JSONL file for ppl.")
@click.option(
    "--train",
    type=click.Path(path_type=Path),
    help="Choice records for the majority and bag-of-words baselines.",
)
@click.option("--limit", type=click.IntRange(min=1), help="First N records, or windows for ppl.")
@click.option("--context", type=click.IntRange(min=2), help="Tokens per window or question.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "torch", "engine"]),
    default="auto",
    show_default=True,
    help="auto: the engine for a .gguf, torch for a directory.",
)
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="In torch.")
@json_option
@verbose_option
@version_option("wf-eval")
def main(
    model: Path,
    tasks: str,
    data: Path | None,
    train: Path | None,
    limit: int | None,
    context: int | None,
    backend: str,
    batch: int,
    as_json: bool,
) -> None:
    """Measure MODEL, an artifact or Hugging Face directory (torch) or a .gguf file (engine).

    Choice tasks: accuracy by summed log-likelihood of the choices, with its 95 % Wilson interval
    and baselines. ppl: perplexity and bits per byte of a text.
    """
    from wrinklefree.eval.backend import open_backend

    if tasks == "ppl":
        if data is None:
            raise UsageError("--tasks ppl needs --data FILE (text, or JSONL with a text per line)")
        _print(
            _perplexity(open_backend(model, backend=backend), model, data, limit, context), as_json
        )
        return
    if not Path(tasks).is_file():
        raise UsageError(f"--tasks {tasks!r} is neither a file nor 'ppl'{nearest(tasks, ['ppl'])}")
    if data is not None:
        raise UsageError("--data belongs to --tasks ppl; a choice task is its own data")
    report = _choices(model, backend, batch, Path(tasks), train, limit, context)
    _print(report, as_json)


def _choices(
    model: Path,
    backend_name: str,
    batch: int,
    task: Path,
    train: Path | None,
    limit: int | None,
    context: int | None,
) -> ChoiceReport:
    from wrinklefree.eval import baselines
    from wrinklefree.eval.backend import open_backend
    from wrinklefree.eval.likelihood import run_choices
    from wrinklefree.eval.report import Accuracy, ChoiceReport
    from wrinklefree.eval.tasks import read_choices

    records = read_choices(task, limit)
    examples = read_choices(train) if train else records
    backend = open_backend(model, backend=backend_name, batch=batch)
    context = _context(backend, context, backend.max_context)
    result = run_choices(backend, records, context=context)
    total = len(records)
    measured = {"majority": Accuracy.of(baselines.majority(examples, records), total)}
    if train:
        measured["bag_of_words"] = Accuracy.of(baselines.bag_of_words(examples, records), total)
    accuracy = Accuracy.of(result.correct(records), total)
    return ChoiceReport(
        str(model), backend.name, str(task), context, accuracy, measured, result.inputs
    )


def _perplexity(
    backend: Backend, model: Path, data: Path, limit: int | None, context: int | None
) -> PerplexityReport:
    from wrinklefree.eval.perplexity import run_perplexity
    from wrinklefree.eval.report import PerplexityReport
    from wrinklefree.eval.tasks import read_documents

    documents = read_documents(data)
    context = _context(backend, context, _PERPLEXITY_CONTEXT)
    result = run_perplexity(
        backend, documents, context=context, limit=limit, progress=_show_windows
    )
    return PerplexityReport(
        str(model),
        backend.name,
        str(data),
        context,
        result.perplexity,
        result.nats_per_token,
        result.bits_per_byte,
        result.scored_tokens,
        result.windows,
        len(documents),
        result.with_bos,
    )


def _context(backend: Backend, asked: int | None, default: int) -> int:
    if asked is not None and asked > backend.max_context:
        raise UsageError(f"--context {asked} is more than the model's {backend.max_context} tokens")
    return min(asked or default, backend.max_context)


def _show_windows(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rwindow {done + 1}/{total}", err=True, nl=done + 1 == total)


def _print(report: ChoiceReport | PerplexityReport, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    from wrinklefree.eval.report import ChoiceReport

    if isinstance(report, ChoiceReport):
        click.echo(f"{report.task} by likelihood in {report.backend}, context {report.context}")
        click.echo(f"  accuracy      {report.model_accuracy}")
        for name, accuracy in report.baselines.items():
            click.echo(f"  {name.replace('_', ' '):<13} {accuracy}")
        inputs = report.inputs
        click.echo(
            f"  inputs        {inputs.tokens} tokens, {inputs.truncated} prompts truncated, "
            f"{inputs.with_bos} with begin token, no chat template"
        )
        return
    click.echo(f"{report.data} in {report.backend}, windows of {report.context} tokens")
    click.echo(f"  perplexity    {report.perplexity:.4f}")
    click.echo(f"  nats/token    {report.nats_per_token:.4f}")
    click.echo(f"  bits/byte     {report.bits_per_byte:.4f}")
    click.echo(
        f"  scored        {report.scored_tokens} tokens in {report.windows} windows of "
        f"{report.documents} documents, {report.with_bos} with begin token"
    )
