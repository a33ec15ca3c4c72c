"""The scores of an evaluation in the model card beside the weights."""

from __future__ import annotations

from pathlib import Path

from wrinklefree._version import __version__
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.report import Report
from wrinklefree.models.card import CARD_NAME, SCORES_BEGIN, SCORES_END


def check_card(directory: Path) -> None:
    """Raises UsageError when there is no card in `directory`, FormatError when it has no place for
    scores: known before an evaluation, not after it."""
    _read(directory)


def add_scores(directory: Path, report: Report) -> None:
    """Replaces the scores in README.md by those of `report`; raises as `check_card` does."""
    before, after = _read(directory)
    teacher = f", teacher {report.teacher}" if report.teacher else ""
    notes = "\n".join(f"- {note}" for note in report.notes())
    about = f"wrinklefree {__version__}, in {report.backend}{teacher}:"
    scores = "\n\n".join([about, "\n".join(report.table()), notes])
    path = directory / CARD_NAME
    partial = path.with_suffix(".partial")
    partial.write_text(f"{before}{SCORES_BEGIN}\n{scores}\n{SCORES_END}{after}", encoding="utf-8")
    partial.replace(path)


def _read(directory: Path) -> tuple[str, str]:
    """What is before and after the scores."""
    path = directory / CARD_NAME
    if not path.is_file():
        raise UsageError(f"--card: {path} does not exist; artifacts have one")
    before, begin, rest = path.read_text(encoding="utf-8").partition(SCORES_BEGIN)
    _, end, after = rest.partition(SCORES_END)
    if not begin or not end:
        raise FormatError(f"{path} has no {SCORES_BEGIN} ... {SCORES_END} for scores to go between")
    return before, after
