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


def test_scales_fit_their_values(tmp_path: Path) -> None:
    for values, scale in (
        ([3.0, 4.0], "linear"),
        ([0.0, 0.3, 4.0], "log"),
        ([0.0], "linear"),
    ):
        with plots.picture(tmp_path / "a.png") as axes:
            axes.plot(values)
            plots.fit_scale(axes)
            assert axes.get_yscale() == scale
    with plots.picture(tmp_path / "a.png") as axes:
        axes.plot([1e-6] + [2.0] * 50 + [30.0])
        plots.fit_scale(axes)
        assert 1 < axes.get_ylim()[0] < 2, "one step is no reason to show a millionth"


def test_a_noisy_line_keeps_its_level(tmp_path: Path) -> None:
    with plots.picture(tmp_path / "a.png") as axes:
        plots.draw_noisy(axes, range(200), [i % 2 for i in range(200)], plots.colours(1)[0], "x")
        mean = [*axes.lines[1].get_ydata()]
    assert all(0.35 < value < 0.65 for value in mean[100:])


def test_colours_differ_for_who_confuses_red_and_green() -> None:
    """Deuteranopia as Machado, Oliveira and Fernandes (2009) simulate it."""
    import numpy as np
    from matplotlib.colors import to_rgb

    seen = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    rgb = np.array([to_rgb(colour) for colour in plots.colours(6)])
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    shown = np.clip(linear @ seen.T, 0, 1) ** (1 / 2.2)
    distances = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
    assert distances[~np.eye(6, dtype=bool)].min() > 0.15
