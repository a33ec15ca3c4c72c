"""wf-convert inspect MODEL: what a model file or directory holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wrinklefree import plots
from wrinklefree.cli.command import Command, json_option, verbose_option
from wrinklefree.cli.convert_report import print_types, progress_bar, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from wrinklefree.convert.inspect import Contents

EXAMPLES = """
wf-convert inspect student.gguf
wf-convert inspect runs/s3 --plot codes.png
wf-convert inspect student.gguf --json
"""
_MAX_VALUE = 72  # characters of a metadata value on its line
_MAX_LISTED = 8  # matrices that are not ternary


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Also draw the shares of the codes -1, 0 and 1 in each layer.",
)
@json_option
@verbose_option
def inspect(model: Path, plot: Path | None, as_json: bool) -> None:
    """Print what MODEL, a .gguf file or a model directory, holds.

    Metadata, types and sizes; whether each projection is ternary, and how often each code occurs.
    """
    from wrinklefree.convert.inspect import inspect_model
    from wrinklefree.errors import FormatError

    if plot is not None:
        plots.check(plot)
    with progress_bar("reading", as_json) as show:
        contents = inspect_model(model, show)
    if as_json:
        click.echo(json.dumps({"path": str(model), **contents.to_json()}))
    else:
        _print(model, contents)
    if plot is not None:
        if contents.code_shares is None:
            raise FormatError(f"{model} has no ternary projection: there are no codes to draw")
        with plots.picture(plot) as axes:
            draw(axes, contents, model.name)


def _print(path: Path, contents: Contents) -> None:
    from wrinklefree.convert.types import type_shares

    click.echo(f"{path}: {contents.format}, {size(contents.num_bytes)}")
    width = max(map(len, contents.metadata), default=0)
    for key, value in contents.metadata.items():
        click.echo(f"  {_plain(key):<{width}}  {_describe(value)}")
    print_types(type_shares((t.type, t.num_parameters, t.num_bytes) for t in contents.tensors))
    measured = [t for t in contents.tensors if t.codes or t.relative_error is not None]
    ternary = [tensor for tensor in measured if tensor.codes]
    if measured:
        click.echo(f"  {len(ternary)} of {len(measured)} projections are ternary")
    if contents.code_shares:
        minus, zero, plus = contents.code_shares
        click.echo(f"  codes: {minus:.1%} are -1, {zero:.1%} are 0, {plus:.1%} are 1")
    losses = {t.name: t.relative_error or 0.0 for t in measured if not t.codes}
    worst = sorted(losses, key=lambda name: -losses[name])
    for name in worst[:_MAX_LISTED]:
        click.echo(f"  not ternary: {_plain(name)}, absmean would lose {losses[name]:.1%}")
    if len(worst) > _MAX_LISTED:
        click.echo(f"  and {len(worst) - _MAX_LISTED} more that would lose less")


def _describe(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} items, {_describe(value[:2])} ..."
    if isinstance(value, str) and (len(value) > _MAX_VALUE or "\n" in value):
        return f"{len(value)} characters, {_plain(value[:40])} ..."
    return _plain(str(value))


def _plain(text: str) -> str:
    """A file's text, cut, without what would move the cursor of a terminal."""
    shown = text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]} ..."
    return "".join(character if character.isprintable() else "?" for character in shown)


def draw(axes: Axes, contents: Contents, title: str) -> None:
    """The codes of each layer."""
    counts = contents.layer_codes
    shares = [[code / sum(codes) for code in codes] for codes in counts.values()]
    plots.draw_code_shares(axes, list(counts), shares)
    axes.set_title(f"Ternary codes of {title}")
