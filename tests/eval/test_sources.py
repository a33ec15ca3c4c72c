"""Examples from files, from folders in the layout of the shared data, and from the hub's code."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from wrinklefree.data.records import ChoiceRecord
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.sources import DataPaths, read_choices, read_documents, read_glue

GOOD = {"prompt": "2 + 2 =", "choices": [" 3", " 4"], "label": 1}
SST2 = {"sentence": "fine film ", "label": 1, "idx": 0}


def lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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
    with pytest.raises(FormatError, match=r"task\.jsonl(: record| line) 2"):
        read_choices(path)


def test_documents_of_each_kind_of_file(tmp_path: Path) -> None:
    text, rows, packed = tmp_path / "a.raw", tmp_path / "b.jsonl", tmp_path / "c.jsonl.gz"
    text.write_text("one\ntwo")
    rows.write_text('{"text": "one"}\n{"text": "two"}\n')
    packed.write_bytes(gzip.compress(rows.read_bytes()))
    assert read_documents([text]) == ["one\ntwo"]
    assert read_documents([rows, packed]) == ["one", "two"] * 2


def test_missing_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_choices(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="no records"):
        read_choices(tmp_path / "empty.jsonl")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="UTF-8"):
        read_documents([tmp_path / "x.txt"])
    with pytest.raises(UsageError, match="no text"):
        read_documents([lines(tmp_path / "t.jsonl", {"text": ""})])


@pytest.mark.parametrize("name", ["sst2/validation.jsonl", "glue/sst2/validation.jsonl"])
def test_a_folder_holds_tasks_by_name(tmp_path: Path, name: str) -> None:
    path = lines(tmp_path / name, SST2)
    lines(path.with_name("train.jsonl"), SST2, SST2)
    place, records = read_glue("sst2", "validation", DataPaths.of([tmp_path]), None)
    assert place == str(path)
    assert records == [ChoiceRecord("Review: fine film\nSentiment:", (" negative", " positive"), 1)]


def test_the_hubs_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    for part in range(2):
        file = tmp_path / "sst2" / f"validation-{part:05}-of-00002.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([SST2] * (part + 1)), file)
    _, records = read_glue("sst2", "validation", DataPaths.of([tmp_path]), None)
    assert len(records) == 3
    _, records = read_glue("sst2", "validation", DataPaths.of([tmp_path]), 2)
    assert len(records) == 2


def test_a_missing_split_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    lines(tmp_path / "mnli" / "validation_matched.jsonl", SST2)
    with pytest.raises(UsageError, match=r"mnli: no validation_mismatched\.jsonl"):
        read_glue("mnli", "validation_mismatched", DataPaths.of([tmp_path]), None)
    with pytest.raises(UsageError, match="does not exist"):
        DataPaths.of([tmp_path / "none"])


def test_the_hub_is_asked_when_no_data_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = datasets.load_dataset
    file = lines(tmp_path / "rows.jsonl", SST2, SST2, SST2)

    def load_dataset(path: str, subset: str, **options: Any) -> Any:
        assert (path, subset, options["split"]) == ("nyu-mll/glue", "sst2", "validation")
        options.pop("revision")
        return load("json", data_files={"validation": str(file)}, **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    place, records = read_glue("sst2", "validation", DataPaths.of([]), 2)
    assert place == "nyu-mll/glue sst2 validation"
    assert len(records) == 2


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        ("sst2", "validation", 872),
        ("cola", "validation", 1043),
        ("mrpc", "validation", 408),
        ("rte", "validation", 277),
        ("qnli", "validation", 5463),
        ("mnli", "validation_matched", 9815),
    ],
)
def test_real_tasks_are_whole(data_dir: Path, name: str, split: str, count: int) -> None:
    _, records = read_glue(name, split, DataPaths.of([data_dir]), None)
    assert len(records) == count  # of the official validation sets
