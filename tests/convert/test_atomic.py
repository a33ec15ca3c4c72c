from __future__ import annotations

import errno
from pathlib import Path

import pytest

from wrinklefree.convert.atomic import new_directory, new_file
from wrinklefree.errors import UsageError, WrinklefreeError

# What happens, and what the caller sees.
FAILURES: list[tuple[BaseException, type[BaseException]]] = [
    (KeyboardInterrupt(), KeyboardInterrupt),
    (OSError(errno.ENOSPC, "No space left on device"), WrinklefreeError),
]


def fail_after_writing(path: Path, failure: BaseException) -> None:
    path.write_text("half")
    raise failure


def test_file_appears_whole_and_replaces_an_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_text("old")
    with new_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.suffix == ".gguf"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_number_do_not_meet(tmp_path: Path) -> None:
    """As process 1 of two containers on one volume."""
    target = tmp_path / "model.gguf"
    with new_file(target) as first, new_file(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("failure", "seen"), FAILURES, ids=["interrupt", "disk-full"])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: BaseException, seen: type[BaseException]
) -> None:
    target = tmp_path / "model.gguf"
    target.write_text("old")
    with pytest.raises(seen), new_file(target) as temporary:
        fail_after_writing(temporary, failure)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("failure", "seen"), FAILURES, ids=["interrupt", "disk-full"])
def test_failure_leaves_no_directory(
    tmp_path: Path, failure: BaseException, seen: type[BaseException]
) -> None:
    with pytest.raises(seen), new_directory(tmp_path / "model") as temporary:
        fail_after_writing(temporary / "config.json", failure)
    assert list(tmp_path.iterdir()) == []


def test_bad_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="create it first"), new_file(tmp_path / "no" / "x.gguf"):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    with (
        pytest.raises(UsageError, match="not an empty directory"),
        new_directory(tmp_path / "full"),
    ):
        pass
    assert (tmp_path / "full" / "precious").exists()
