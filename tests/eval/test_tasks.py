from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.tasks import ChoiceRecord, read_choices, read_documents

GOOD = {"prompt": "2 + 2 =", "choices": [" 3", " 4"], "label": 1}


def test_choice_records(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | {"label": 0}) + "\n")
    records = read_choices(path)
    assert records[0] == ChoiceRecord("2 + 2 =", (" 3", " 4"), 1)
    assert [record.answer for record in records] == [" 4", " 3"]
    assert len(read_choices(path, limit=1)) == 1


@pytest.mark.parametrize(
    "bad",
    [
        '{"prompt": "a", "choices": [" b"], "label": 0}',
        '{"prompt": "a", "choices": [" b", ""], "label": 0}',
        '{"prompt": "a", "choices": [" b", " c"], "label": 2}',
        '{"prompt": "a", "choices": [" b", " c"], "label": true}',
        '{"prompt": 1, "choices": [" b", " c"], "label": 0}',
        '{"text": "a"}',
        "[1]",
        "{",
    ],
)
def test_bad_record_is_named_by_its_line(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + bad + "\n")
    with pytest.raises(FormatError, match=r"task\.jsonl line 2"):
        read_choices(path)


def test_documents_of_each_kind_of_file(tmp_path: Path) -> None:
    text, lines, packed = tmp_path / "a.raw", tmp_path / "b.jsonl", tmp_path / "c.jsonl.gz"
    text.write_text("one\ntwo")
    lines.write_text('{"text": "one"}\n{"text": "two"}\n')
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    assert read_documents(text) == ["one\ntwo"]
    assert read_documents(lines) == read_documents(packed) == ["one", "two"]


def test_missing_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_choices(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="no records"):
        read_choices(tmp_path / "empty.jsonl")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="UTF-8"):
        read_documents(tmp_path / "x.txt")
