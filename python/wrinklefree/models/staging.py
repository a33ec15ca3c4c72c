"""staged_directory: write a directory completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_directory(path: str | Path) -> Iterator[Path]:
    """Temporary directory beside `path` that takes its place when the block ends without an error.

    All files are flushed to disk before the rename. An existing directory is replaced; on an error
    it stays as it was and the temporary one is removed.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.new-{os.getpid()}")
    replaced = target.with_name(f".{target.name}.old-{os.getpid()}")
    staged.mkdir()
    try:
        yield staged
        for file in staged.rglob("*"):
            _fsync(file)
        _fsync(staged)
        if target.exists():
            target.rename(replaced)
        staged.rename(target)
        _fsync(target.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
