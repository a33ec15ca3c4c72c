"""wf-train report: what a run did, as pictures."""

from __future__ import annotations

from pathlib import Path

import click

from wrinklefree.cli.command import Command, verbose_option

EXAMPLES = """
wf-train report runs/s3
wf-train report runs/s3 --out report
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Directory of the report [default: RUN-report]."
)
@verbose_option
def report(run: Path, out: Path | None) -> None:
    """Draw losses, rates, gradients and weights of RUN, the `out` of a training stage.

    Writes report.md with its pictures and report.html, one file that shows the same.
    """
    from wrinklefree.training.report import write_report

    click.echo(write_report(run, out or run.with_name(f"{run.resolve().name}-report")))
