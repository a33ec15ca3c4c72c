"""The demo's chain: what is done is skipped, what was interrupted continues, the rest is new."""

from pathlib import Path

import pytest
from rich.console import Console

from demo.steps import Chain, Step
from wrinklefree.errors import WrinklefreeError

COUNT = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
calls = len(list(folder.iterdir()))
(folder / str(calls)).touch()
print(calls)
sys.exit(int(sys.argv[2]))
"""


def counting(title: str, *, made: str, code: int = 0, extra: str = "") -> Step:
    """A step that adds a file to the directory it makes and exits with `code`."""
    command = ("python", "-c", COUNT, made, str(code), extra)
    return Step(title, command, result=Path("count.txt"), made=Path(made))


def run(work: Path, *steps: Step) -> None:
    Chain(work, Console(quiet=True), num_steps=len(steps)).run(steps)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_step_is_skipped(tmp_path: Path) -> None:
    for _ in range(2):
        run(tmp_path, counting("a", made="a"), counting("b", made="b"))
    assert files(tmp_path / "a") == files(tmp_path / "b") == {"0"}
    assert (tmp_path / "count.txt").read_text() == "0\n"


def test_a_failed_step_continues_on_what_it_made(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(WrinklefreeError, match="'a' failed with exit code 1"):
            run(tmp_path, counting("a", made="a", code=1))
    assert files(tmp_path / "a") == {"0", "1"}


def test_another_command_starts_anew_and_so_do_the_steps_after_it(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    run(tmp_path, *(counting(name, made=name) for name in names))
    for name in names:
        (tmp_path / name / "old").touch()
    run(
        tmp_path,
        counting("a", made="a"),
        counting("b", made="b", extra="changed"),
        counting("c", made="c"),
    )
    assert files(tmp_path / "a") == {"0", "old"}
    assert files(tmp_path / "b") == files(tmp_path / "c") == {"0"}
