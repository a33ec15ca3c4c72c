"""Numbers in docs/quality.md can be made again: command, commit, machine and seeds stand beside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "quality.md"
BESIDE = {
    "command": r"`(python )?(bench/|wf-)",
    "commit": r"\bcommits? [0-9a-f]{7}\b",
    "machine": r"\b(EPYC|Xeon|H100|H200)\b",
    "seeds": r"\bseeds?\b",
}


def sections() -> dict[str, str]:
    """By title, those that have a table."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    titled = {part.splitlines()[0]: part for part in parts}
    return {title: part for title, part in titled.items() if "\n|---" in part}


@pytest.mark.parametrize("title", sections())
def test_a_table_says_how_it_was_measured(title: str) -> None:
    text = sections()[title]
    assert [name for name, form in BESIDE.items() if not re.search(form, text)] == []


def test_the_page_has_its_tables() -> None:
    assert len(sections()) >= 3
