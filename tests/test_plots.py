"""The shared style: the same bytes every time, and one-line errors before the work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wrinklefree import plots
from wrinklefree.errors import UsageError


def draw(path: Path) -> bytes:
    with plots.picture(path) as axes:
        axes.plot([1, 2], [3, 4], color=plots.colours(1)[0])
    return path.read_bytes()


def test_the_same_drawing_is_the_same_png(tmp_path: Path) -> None:
    import matplotlib

    first = draw(tmp_path / "a.png")
    assert first.startswith(b"\x89PNG")
    assert len(first) > 5000
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.grid": False}):
        assert draw(tmp_path / "b.png") == first, "what the user has set elsewhere plays no part"


def test_colours_repeat_only_when_they_run_out() -> None:
    assert len(set(plots.colours(6))) == 6
    assert plots.colours(8)[:6] == plots.colours(6)


def test_what_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="PNG"):
        plots.check(tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="no directory"):
        plots.check(tmp_path / "none" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r'pip install "wrinklefree\[plot\]"'):
        plots.check(tmp_path / "a.png")
