"""The one plain style of our pictures. matplotlib is optional: the extra `plot`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#444444"
# Okabe and Ito's, which people who confuse red and green tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_CODE_COLOURS = {"-1": "#0072b2", "0": "#dddddd", "+1": "#d55e00"}
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


def use_log_scale(axes: Axes, *names: str) -> None:
    """The axes "x", "y" or both logarithmic, ticks as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def fit_scale(axes: Axes) -> None:
    """The y axis logarithmic where values differ tenfold; on less it would have hardly a tick.

    It begins below all but the lowest twentieth: a loss that is next to nothing for a few steps
    would take half of the picture.
    """
    drawn: list[Any] = [value for line in axes.lines for value in line.get_ydata()]  # type: ignore[union-attr]
    values = sorted(float(value) for value in drawn if value > 0)
    if values and values[-1] > 10 * values[0]:
        use_log_scale(axes, "y")
        axes.set_ylim(bottom=values[len(values) // 20] / 1.5)


def draw_noisy(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, name: str) -> None:
    """A line that jumps from step to step: pale as it is, and its mean."""
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.7)
    draw_mean(axes, x, y, colour, name)


def draw_mean(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, name: str) -> None:
    """The running mean of a line over a twentieth of it."""
    weight = 1 - 1 / max(1, len(y) / 20)
    means: list[float] = []
    for value in y:
        means.append(weight * means[-1] + (1 - weight) * value if means else value)
    axes.plot(x, means, color=colour, label=name)


def draw_code_shares(axes: Axes, layers: Sequence[int], shares: Sequence[Sequence[float]]) -> None:
    """A bar for each layer, of its shares of the codes -1, 0 and 1."""
    from matplotlib.ticker import MaxNLocator

    below = [0.0] * len(layers)
    for index, (name, colour) in enumerate(_CODE_COLOURS.items()):
        part = [share[index] for share in shares]
        axes.bar(layers, part, 0.9, bottom=below, color=colour, label=name)
        below = [low + share for low, share in zip(below, part, strict=True)]
    axes.set(xlabel="layer", ylabel="share of the weights", ylim=(0, 1))
    axes.grid(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


@contextmanager
def picture(path: Path) -> Iterator[Axes]:
    """Axes to draw in; the end of the block writes them to `path`, the same bytes for the same
    drawing. Raises what `check` raises."""
    check(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure()
        FigureCanvasAgg(figure)
        yield figure.subplots()
        drawn = BytesIO()
        figure.savefig(drawn, format="png")
        # 64 colours are plenty, and a third of the bytes.
        image = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        image.save(path, format="PNG", optimize=True)
