"""staged_directory: write a directory completely or not at all.

While `out` is written there is a `.out.staged-*` beside it: `new`, what is being written, `old`,
what it has just replaced, and `lock`. The kernel holds the lock as long as the writer lives. (A
process number says nothing: in a container the trainer is process 1 each time it is started.)
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NEW, OLD, LOCK = "new", "old", "lock"


@contextmanager
def staged_directory(path: str | Path) -> Iterator[Path]:
    """Temporary directory that takes the place of `path` when the block ends without an error.

    All files are flushed to disk before the rename. An existing directory is replaced; on an error
    it stays as it was and the temporary one is removed. What killed writers left is removed too.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.staged-", dir=target.parent))
    new, old = stage / NEW, stage / OLD
    with (stage / LOCK).open("w") as lock:
        _locks(lock)
        try:
            new.mkdir()
            yield new
            for file in new.rglob("*"):
                _fsync(file)
            _fsync(new)
            if target.exists():
                target.rename(old)
            new.rename(target)
            _fsync(target.parent)
        finally:
            if old.exists() and not target.exists():
                old.rename(target)
            shutil.rmtree(stage, ignore_errors=True)


def recover(path: str | Path) -> None:
    """Take back what a killed writer of `path` had completed, and remove its leftovers.

    Writers that live are left alone, and so is everything on a file system without locks.
    """
    target = Path(path).absolute()
    ours = re.compile(rf"\.{re.escape(target.name)}\.staged-\w+")
    siblings = list(target.parent.iterdir()) if target.parent.is_dir() else []
    for stage in (sibling for sibling in siblings if ours.fullmatch(sibling.name)):
        # NFS grants locks only on files that are open for writing.
        with (stage / LOCK).open("a") as lock:
            if not _locks(lock):
                continue
            # Both are there only between the two renames: the new one is complete.
            if (stage / NEW).exists() and (stage / OLD).exists() and not target.exists():
                (stage / NEW).rename(target)
                _fsync(target.parent)
            shutil.rmtree(stage, ignore_errors=True)


def _locks(file: IO[str]) -> bool:
    """Lock the file until it is closed; False if another process has it, or there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
