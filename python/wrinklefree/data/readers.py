"""Rows of files and of hub data sets, one rank's share of them, from a position that can be saved.

A position names the next row: for files the file, the offset in it (bytes of a .jsonl, rows of a
.parquet), its line and the number of rows before it; for the hub what `datasets` says. Going there
reads nothing twice, except in a .gz, which must be unpacked from its start.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from wrinklefree.configs.config import SourceConfig
from wrinklefree.errors import FormatError, UsageError

FILE_KINDS = (".jsonl", ".jsonl.gz", ".parquet", ".txt", ".raw")
PARQUET_BATCH = 1024  # rows that are decoded at once

Row = Mapping[str, Any]
# The offset after a row, and the row itself when it is asked for; None for a blank line.
Offsets = Iterator[tuple[int, Callable[[], Any] | None]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `world` disjoint parts that together are the whole source."""

    rank: int = 0
    world: int = 1


class Reader(Protocol):
    """Rows with the place that errors name."""

    def __iter__(self) -> Iterator[tuple[str, Row]]: ...

    def position(self) -> dict[str, Any]:
        """JSON values from which a new reader gives the rows that are still to come."""


class FileReader:
    """Rows of files, one file after the other; row i of all goes to rank i modulo world."""

    def __init__(
        self,
        paths: Sequence[Path],
        source: SourceConfig,
        *,
        shard: Shard,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        self._paths, self._source, self._shard = paths, source, shard
        start = start or {}
        self._file, self._offset = int(start.get("file", 0)), int(start.get("offset", 0))
        self._line, self._record = int(start.get("line", 0)), int(start.get("record", 0))

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        while self._file < len(self._paths):
            path = self._paths[self._file]
            for offset, row in _open_rows(path, self._source, self._offset):
                self._offset, self._line = offset, self._line + 1
                if row is None:
                    continue
                if self._record == self._source.limit:
                    return
                self._record += 1
                if (self._record - 1) % self._shard.world == self._shard.rank:
                    yield f"{path}: record {self._line}", _read(row, path, self._line)
            self._file, self._offset, self._line = self._file + 1, 0, 0

    def position(self) -> dict[str, Any]:
        """As the protocol says."""
        return {
            "file": self._file,
            "offset": self._offset,
            "line": self._line,
            "record": self._record,
        }


class HubReader:
    """Rows of a data set of the Hugging Face hub, streamed."""

    def __init__(
        self, source: SourceConfig, *, shard: Shard, start: Mapping[str, Any] | None = None
    ) -> None:
        self._source, self._shard = source, shard
        self._record = int(start["record"]) if start is not None else 0
        self._start = start["state"] if start is not None else None
        self._stream: Any = None
        self._has_moved = False
        # The first rows of a data set lie in its first file: a limit leaves nothing to split.
        self._is_split = shard.world > 1 and source.limit is None

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        with _hub_errors(self._source):
            for row in self._open():
                self._has_moved = True
                if self._record == self._source.limit:
                    return
                self._record += 1
                if self._is_split or (self._record - 1) % self._shard.world == self._shard.rank:
                    yield f"{self._source.path}: record {self._record}", row

    def position(self) -> dict[str, Any]:
        """As the protocol says."""
        # NOTE: until its first row a stream that was told where to start still gives the state of
        # the start of the data set.
        if self._start is not None and not self._has_moved:
            return {"record": self._record, "state": self._start}
        with _hub_errors(self._source):
            return {"record": self._record, "state": self._open().state_dict()}

    def _open(self) -> Any:
        import datasets
        from datasets.distributed import split_dataset_by_node

        if self._stream is not None:
            return self._stream
        source, shard = self._source, self._shard
        # Streaming, so that `limit` bounds the download too.
        stream: Any = datasets.load_dataset(
            source.path,
            source.subset,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
        if self._is_split:
            # By whole files where their number allows it, so that no rank downloads all.
            stream = split_dataset_by_node(stream, shard.rank, shard.world)
        if self._start is not None:
            stream.load_state_dict(self._start)
        self._stream = stream
        return stream


@contextlib.contextmanager
def _hub_errors(source: SourceConfig) -> Iterator[None]:
    import datasets

    try:
        yield
    except (ConnectionError, OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"data set {source.path} (split {source.split}) cannot be read from the hub: "
            f"{reason}; offline, download it elsewhere and give its files"
        ) from None


def is_kind(path: Path) -> bool:
    """Whether a file of this name can be read."""
    return path.name.endswith(FILE_KINDS)


def _open_rows(path: Path, source: SourceConfig, start: int) -> Offsets:
    if path.name.endswith((".txt", ".raw")):
        if source.format != "text":
            raise UsageError(
                f"{path}: a text file has no {source.format} records; use data.format=text"
            )
        return _text_rows(path, source.text_field, start)
    if path.suffix == ".parquet":
        return _parquet_rows(path, start)
    if is_kind(path):
        return _jsonl_rows(path, start)
    raise UsageError(f"{path}: unknown kind of file; allowed are {', '.join(FILE_KINDS)}")


def _text_rows(path: Path, field: str, start: int) -> Offsets:
    if start == 0:
        yield 1, lambda: {field: path.read_text(encoding="utf-8-sig")}


def _jsonl_rows(path: Path, start: int) -> Offsets:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    offset = start
    try:
        with opener(path, "rb") as lines:
            lines.seek(start)
            for line in lines:
                offset += len(line)
                yield offset, partial(_json_row, line) if line.strip() else None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FormatError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _json_row(line: bytes) -> Any:
    text = line.decode("utf-8-sig")
    values = json.loads(text)
    if r"\ud" in text.lower():
        # Half a surrogate pair is JSON, but no text. Raises UnicodeEncodeError.
        json.dumps(values, ensure_ascii=False).encode()
    return values


def _parquet_rows(path: Path, start: int) -> Offsets:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if number + size <= start:
                    number += size
                    continue
                for batch in file.iter_batches(PARQUET_BATCH, row_groups=[group]):
                    for index in range(batch.num_rows):
                        number += 1
                        if number > start:
                            yield number, partial(_parquet_row, batch, index)
    except (pyarrow.ArrowException, OSError) as error:
        raise FormatError(f"{path} is no readable parquet file: {error}") from None


def _parquet_row(batch: Any, index: int) -> Row:
    return {name: batch.column(name)[index].as_py() for name in batch.schema.names}


def _read(row: Callable[[], Any], path: Path, line: int) -> Row:
    try:
        values = row()
    except UnicodeDecodeError:
        raise FormatError(f"{path} line {line}: not UTF-8 text") from None
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise FormatError(
            f"{path} line {line}: {half} is half a surrogate pair, which is no text; remove it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} line {line}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise FormatError(f"{path} line {line}: expected a JSON object")
    return values
