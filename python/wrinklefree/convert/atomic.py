"""Outputs that are either complete or absent: temporary name, fsync, rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wrinklefree.errors import UsageError, WrinklefreeError
from wrinklefree.models.staging import staged_directory


@contextmanager
def new_file(destination: Path) -> Iterator[Path]:
    """Yields a temporary path beside `destination` that takes its place when the block succeeds.

    Any exception, Ctrl-C included, leaves no trace. Raises UsageError if the directory of
    `destination` does not exist, WrinklefreeError for a full disk and whatever else stops a write.
    """
    if not destination.parent.is_dir():
        raise UsageError(f"{destination.parent} is not a directory: create it first")
    if destination.is_dir():
        raise UsageError(f"{destination} is a directory")
    # The suffix stays: the file is opened by name for verification before it is renamed.
    # NOTE: a process number would not tell two containers on one volume apart.
    mark = secrets.token_hex(8)
    temporary = destination.with_name(f".{destination.stem}.{mark}{destination.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(destination)
        _sync(destination.parent)
    except OSError as error:
        raise _not_written(destination, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """As `new_file`, for a directory; an existing `destination` must be empty."""
    if not destination.parent.is_dir():
        raise UsageError(f"{destination.parent} is not a directory: create it first")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"{destination} exists and is not an empty directory: choose another name")
    try:
        with staged_directory(destination) as staged:
            yield staged
    except OSError as error:
        raise _not_written(destination, error) from error


def _not_written(destination: Path, error: OSError) -> WrinklefreeError:
    # numpy's tofile says only how many of its items it could write.
    reason = error.strerror or f"is the disk full? ({error})"
    return WrinklefreeError(f"{destination} is not written: {reason}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
