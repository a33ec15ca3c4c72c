"""The one table at the end: what the student kept, and what it gained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

HEADER = ("", "accuracy (95 %)", "perplexity", "MB", "tokens/s")
NOTE = """\
tokens/s: greedy decoding; the teacher in torch bfloat16, the student in our engine.
Perplexity on 32-token windows: some minutes of training teach a task, not language."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result table; None is shown as a dash."""

    name: str
    accuracy: tuple[float, float, float] | None = None  # value and its 95 % interval
    perplexity: float | None = None
    num_bytes: int | None = None
    tokens_per_s: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The texts of the line, in the order of HEADER."""
        accuracy = "-"
        if self.accuracy is not None:
            value, low, high = self.accuracy
            accuracy = f"{value:.3f} ({low:.3f}-{high:.3f})"
        size_mb = None if self.num_bytes is None else self.num_bytes / 1e6
        numbers = (self.perplexity, size_mb, self.tokens_per_s)
        return (self.name, accuracy, *map(_short, numbers))


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 1e5 else f"{value:.1e}"


def result_table(rows: Sequence[Row], *, title: str) -> Table:
    """A table for the terminal, one line per row."""
    table = Table(title=title, title_justify="left", caption=NOTE, caption_justify="left")
    for column in HEADER:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row.cells())
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The same table as Markdown."""
    lines = [HEADER, ("---", *["---:"] * (len(HEADER) - 1)), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
