"""Where the examples of a task come from: files, folders of data sets, or the hub.

Rows are read by the data library, so that evaluation sees what training saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wrinklefree.configs.config import SourceConfig
from wrinklefree.data.glue import GLUE, HUB_ID
from wrinklefree.data.readers import FileReader, HubReader, Row, Shard, is_kind
from wrinklefree.data.records import ChoiceRecord, SummaryRecord, TextRecord, choice_record, parse
from wrinklefree.data.sources import open_reader
from wrinklefree.errors import UsageError

Rows = Iterable[tuple[str, Row]]

_CNN_DAILYMAIL = SourceConfig(
    path="abisee/cnn_dailymail", subset="3.0.0", split="test", format="summary"
)


@dataclass(frozen=True, slots=True)
class DataPaths:
    """What --data gave: files, and folders that hold data sets by name."""

    files: tuple[Path, ...]
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> DataPaths:
        """Raises UsageError for a path that does not exist."""
        for path in paths:
            if not path.exists():
                raise UsageError(f"--data {path} does not exist")
        files = tuple(path for path in paths if path.is_file())
        return cls(files, tuple(path for path in paths if path.is_dir()))


def read_choices(path: Path, limit: int | None = None) -> list[ChoiceRecord]:
    """The choice records of a file, at most `limit`.

    Raises UsageError for a missing or empty file, FormatError naming a bad record.
    """
    source = SourceConfig(path=str(path), format="choice", limit=limit)
    return _choices(open_reader(source), source)


def read_glue(
    name: str, split: str, data: DataPaths, limit: int | None
) -> tuple[str, list[ChoiceRecord]]:
    """Place and records of a split of a GLUE task.

    Raises UsageError where it is not found, FormatError naming a bad record.
    """
    task = GLUE[name]
    kind: Any = name  # every GLUE task is a format
    source = SourceConfig(path=HUB_ID, subset=task.subset, split=split, format=kind, limit=limit)
    place, rows = _open(source, name, data)
    return place, _choices(rows, source)


def read_summaries(data: DataPaths, limit: int | None) -> tuple[str, list[SummaryRecord]]:
    """Place and records of the test split of CNN/DailyMail 3.0.0; raises as `read_glue` does."""
    source = replace(_CNN_DAILYMAIL, limit=limit)
    place, rows = _open(source, "cnn_dailymail", data)
    records = [parse(row, source, where) for where, row in rows]
    summaries = [record for record in records if isinstance(record, SummaryRecord)]
    if not summaries:
        raise UsageError(f"{place} has no records")
    return place, summaries


def read_documents(paths: Sequence[Path]) -> list[str]:
    """Texts of JSONL or parquet files ({"text": ...} per row), or the one text of a .txt, .raw."""
    documents = []
    for path in paths:
        source = SourceConfig(path=str(path), format="text")
        for where, row in open_reader(source):
            record = parse(row, source, where)
            assert isinstance(record, TextRecord)
            documents.append(record.text)
    if not any(documents):
        raise UsageError(f"{', '.join(map(str, paths))}: no text in it")
    return documents


def _choices(rows: Rows, source: SourceConfig) -> list[ChoiceRecord]:
    records = [choice_record(row, source.format, where) for where, row in rows]
    if not records:
        raise UsageError(f"{source.path} has no records")
    return records


def _open(source: SourceConfig, name: str, data: DataPaths) -> tuple[str, Rows]:
    """A task's rows: from a folder that has them, from the files, else from the hub."""
    if data.folders:
        paths = split_files(data.folders, name, source.split)
    elif data.files:
        paths = list(data.files)
        texts = [path for path in paths if is_text(path)]
        if texts:
            raise UsageError(
                f"--data {texts[0]} is a text; {name} has records: give a folder with "
                f"{name}/{source.split}.jsonl, or nothing to take it from the hub"
            )
    else:
        place = f"{source.path} {source.subset} {source.split}"
        return place, HubReader(source, shard=Shard())
    place = ", ".join(map(str, paths))
    return place, FileReader(paths, source, shard=Shard())


def is_text(path: Path) -> bool:
    """Whether a file is one text, without records."""
    return path.name.endswith((".txt", ".raw"))


def split_files(folders: Sequence[Path], name: str, split: str) -> list[Path]:
    """FOLDER/NAME/SPLIT.jsonl and its like: also FOLDER/glue/NAME, and the hub's SPLIT-00000...

    Raises UsageError when no folder has them.
    """
    for folder in folders:
        for place in (folder / name, folder / "glue" / name):
            if not place.is_dir():
                continue
            found = [
                path
                for path in sorted(place.iterdir())
                if path.name.startswith((f"{split}.", f"{split}-")) and is_kind(path)
            ]
            if found:
                return found
    where = " or ".join(f"{folder}/{name}" for folder in folders)
    raise UsageError(f"{name}: no {split}.jsonl (.jsonl.gz, .parquet) in {where}")
