"""A directory is written completely or not at all, whenever the writer is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wrinklefree.models import staging
from wrinklefree.models.staging import recover, staged_directory

# The module alone, since torch takes seconds to import. In a container the trainer is process 1
# each time it is started.
WRITER = """
import os, pathlib, runpy, signal, sys

staged_directory = runpy.run_path(sys.argv[3])["staged_directory"]

def die():
    signal.raise_signal(signal.SIGKILL)

os.getpid = lambda: 1
out, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
rename = pathlib.Path.rename

def rename_and_die(self, target):
    rename(self, target)
    if self == out:
        die()

if moment == "between the renames":
    pathlib.Path.rename = rename_and_die
with staged_directory(out) as staged:
    (staged / "first").write_text("new")
    if moment == "while writing":
        die()
    if moment == "never":
        print("writing", flush=True)
        sys.stdin.read()
    (staged / "last").write_text("new")
"""


def start(out: Path, moment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out), moment, staging.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(out: Path, moment: str) -> None:
    assert start(out, moment).wait(60) == -signal.SIGKILL


def write(out: Path, text: str) -> None:
    with staged_directory(out) as staged:
        (staged / "first").write_text(text)
        (staged / "last").write_text(text)


def content(out: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in out.iterdir()}


OLD = {"first": "old", "last": "old"}
NEW = {"first": "new", "last": "new"}


def test_killed_while_writing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    kill(out, "while writing")
    assert content(out) == OLD
    assert len(list(tmp_path.iterdir())) == 2
    write(out, "new")
    assert content(out) == NEW
    assert list(tmp_path.iterdir()) == [out]


def test_the_first_writing_is_killed(tmp_path: Path) -> None:
    kill(tmp_path / "out", "while writing")
    recover(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out", "a[b].staged-c"])
def test_killed_between_the_renames(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    write(out, "old")
    kill(out, "between the renames")
    assert not out.exists()
    recover(out)
    assert content(out) == NEW
    assert list(tmp_path.iterdir()) == [out]


def test_what_was_removed_by_hand_does_not_come_back(tmp_path: Path) -> None:
    """Killed after both renames: the old content is still beside `out`."""
    out = tmp_path / "out"
    write(out, "old")
    kill(out, "between the renames")
    (stage,) = tmp_path.iterdir()
    (stage / "new").rename(out)
    (out / "first").unlink()
    (out / "last").unlink()
    out.rmdir()
    recover(out)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = start(out, "never")
    assert other.stdout is not None
    assert other.stdout.readline() == "writing\n"
    recover(out)
    write(out, "old")
    other.communicate(timeout=60)
    assert other.returncode == 0
    assert content(out) == NEW
    assert list(tmp_path.iterdir()) == [out]


def test_leftovers_of_another_name_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    kill(tmp_path / "out.b", "while writing")
    (leftover,) = (path for path in tmp_path.iterdir() if path.name.startswith("."))
    recover(tmp_path / "out")
    recover(tmp_path / "b")
    assert leftover.is_dir()


def test_an_error_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, "old")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == out and self.name == "new":
            raise OSError("no such luck")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no such luck"):
        write(out, "new")
    assert content(out) == OLD
    assert list(tmp_path.iterdir()) == [out]
