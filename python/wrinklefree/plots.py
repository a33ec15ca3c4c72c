"""The one plain style of our pictures. matplotlib is optional: the extra `plot`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#444444"
_COLOURS = ("#3b6ea5", "#c8553d", "#5b8c5a", "#8a6fa8", "#b08a3c", "#5f9ea0")
_STYLE: dict[Any, Any] = {
    "figure.figsize": (7.0, 4.4),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 7,
    "legend.frameon": False,
}


def check_installed() -> None:
    """Raises UsageError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError('pictures need matplotlib: pip install "wrinklefree[plot]"') from error


def check(path: Path) -> None:
    """Whether a picture can be written there, to ask before the work that it shows.

    Raises UsageError without matplotlib, for a name that is no .png and for a missing directory.
    """
    check_installed()
    if path.suffix != ".png":
        raise UsageError(f"{path} is no .png: pictures are written as PNG")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no directory: make it first")


def colours(count: int) -> list[str]:
    """That many colours, the same ones in the same order in every picture."""
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def use_log_scales(axes: Axes) -> None:
    """Both axes logarithmic, ticks as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


@contextmanager
def picture(path: Path) -> Iterator[Axes]:
    """Axes to draw in; the end of the block writes them to `path`, the same bytes for the same
    drawing. Raises what `check` raises."""
    check(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure()
        FigureCanvasAgg(figure)
        yield figure.subplots()
        figure.savefig(path, format="png", metadata={"Software": None})
