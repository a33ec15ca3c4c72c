"""Evaluation data: choice records and documents, from JSONL (.gz) and text files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from wrinklefree.errors import FormatError, UsageError


@dataclass(frozen=True, slots=True)
class ChoiceRecord:
    """A prompt, its possible continuations (each with its own leading space), the right one."""

    prompt: str
    choices: tuple[str, ...]
    label: int

    @property
    def answer(self) -> str:
        return self.choices[self.label]


def read_choices(path: Path, limit: int | None = None) -> list[ChoiceRecord]:
    """The choice records of a JSONL file, at most `limit`.

    Raises UsageError for a missing or empty file, FormatError naming the line of a bad record.
    """
    records = [_choice(row, where) for where, row in islice(_rows(path), limit)]
    if not records:
        raise UsageError(f"{path} has no records")
    return records


def read_documents(path: Path, limit: int | None = None) -> list[str]:
    """Texts of a JSONL file ({"text": ...} per line), or the one text of any other file."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        documents = [_string(row, "text", where) for where, row in islice(_rows(path), limit)]
    else:
        try:
            documents = [path.read_text(encoding="utf-8")]
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise FormatError(f"{path} is not UTF-8 text") from None
    if not any(documents):
        raise UsageError(f"{path} has no text")
    return documents


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of every line of a JSONL file."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a .jsonl or .jsonl.gz file")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path} line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise FormatError(f"{where}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise FormatError(f"{where}: expected a JSON object")
            yield where, row


def _choice(row: dict[str, Any], where: str) -> ChoiceRecord:
    prompt = _string(row, "prompt", where)
    choices, label = row.get("choices"), row.get("label")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice for choice in choices)
    ):
        raise FormatError(f'{where}: "choices" must be a list of at least two non-empty strings')
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(choices):
        raise FormatError(f'{where}: "label" must be an index into its {len(choices)} choices')
    return ChoiceRecord(prompt, tuple(choices), label)


def _string(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise FormatError(f'{where}: needs a string "{key}"; it has {", ".join(sorted(row))}')
    return value
