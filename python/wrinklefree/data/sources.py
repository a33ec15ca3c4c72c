"""Where records come from: files, directories and globs, or a data set of the Hugging Face hub."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree.configs.config import DataConfig, SourceConfig
from wrinklefree.data.identity import files_hash
from wrinklefree.data.readers import (
    FILE_KINDS,
    FileReader,
    HubReader,
    Reader,
    Shard,
    is_kind,
)
from wrinklefree.data.records import Record, parse
from wrinklefree.errors import UsageError


def read_records(config: DataConfig, path: str | None = None) -> Iterator[Record]:
    """The records of all sources in order, or those of `path` (read as config.format says).

    Raises UsageError for a missing file or an unreachable hub id, FormatError for a bad record.
    """
    sources = config.sources if path is None else (config.source(path),)
    return itertools.chain.from_iterable(map(source_records, sources))


def source_records(source: SourceConfig) -> Iterator[Record]:
    """The records of one source in order."""
    for where, row in open_reader(source):
        yield parse(row, source, where)


def open_reader(
    source: SourceConfig,
    *,
    shard: Shard = Shard(),  # noqa: B008 (frozen)
    start: Mapping[str, Any] | None = None,
    shuffle: tuple[int, ...] | None = None,
) -> Reader:
    """Rows of this rank from a saved position; `shuffle` seeds the order of the files."""
    if is_hub(source.path):
        return HubReader(source, shard=shard, start=start)
    paths = files_of(source.path)
    if shuffle is not None:
        order = np.random.Generator(np.random.PCG64(list(shuffle))).permutation(len(paths))
        paths = [paths[index] for index in order]
    return FileReader(paths, source, shard=shard, start=start)


def is_hub(path: str) -> bool:
    """Whether a path can only mean a data set of the hub: owner/name, and nothing on disk."""
    looks_like_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    is_file_name = bool(Path(path).suffix) or _is_glob(path)
    return looks_like_id and not is_file_name and not Path(path).exists()


def files_of(path: str) -> list[Path]:
    """The files that a path names, sorted: itself, those under a directory, or of a glob.

    Raises UsageError when there are none.
    """
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        found = [file for file in Path(path).rglob("*") if file.is_file() and is_kind(file)]
        # Hidden below the folder: .ipynb_checkpoints, .cache and their like hold copies.
        found = [
            file
            for file in found
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    else:
        # Path.glob takes no absolute pattern.
        names = glob.glob(path, recursive=True) if _is_glob(path) else []  # noqa: PTH207
        found = [Path(name) for name in names if Path(name).is_file()]
    if not found:
        raise UsageError(
            f"data file {path} does not exist; give a file, directory or glob of "
            f"{', '.join(FILE_KINDS)} files"
        )
    return sorted(found)


def fingerprint(source: SourceConfig) -> dict[str, Any]:
    """What must stay the same for a saved position to mean the same rows."""
    identity: dict[str, Any] = {"path": source.path, "format": source.format, "limit": source.limit}
    if is_hub(source.path):
        return identity | {"subset": source.subset, "split": source.split, "rev": source.revision}
    files = files_of(source.path)
    return identity | {"files": len(files), "sha256": files_hash(files)}


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")
