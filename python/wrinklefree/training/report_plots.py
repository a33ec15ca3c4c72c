"""The pictures of a training report. Every function draws into given axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wrinklefree import plots
from wrinklefree.training.weight_histograms import RANGE, Histograms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

Entries = Sequence[dict[str, Any]]


def series(entries: Entries, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the entries that have one."""
    having = [entry for entry in entries if name in entry]
    return [entry["step"] for entry in having], [entry[name] for entry in having]


def names(entries: Entries, prefix: str) -> list[str]:
    """Names with the prefix that occur in any entry."""
    return sorted({name for entry in entries for name in entry if name.startswith(prefix)})


def draw_loss(axes: Axes, train: Entries, evaluations: Entries) -> None:
    """The loss, its terms if there are several, and the cross-entropy on held-out rows."""
    terms = names(train, "loss_")
    held_out = [n for n in ("cross_entropy", "cross_entropy_deployed") if names(evaluations, n)]
    shown = ["loss", *(terms if len(terms) > 1 else [])]
    colours = iter(plots.colours(len(shown) + len(held_out)))
    for name in shown:
        line = (*series(train, name), next(colours))
        if name == "loss":
            plots.draw_noisy(axes, *line, name)
        else:
            plots.draw_mean(axes, *line, f"part: {name.removeprefix('loss_')}")
    for name in held_out:
        draw_held_out(axes, evaluations, name, next(colours))
    # Before training, the weights at lambda 1 lose ten times as much as anything later.
    plots.fit_scale(axes)
    axes.set(title="Loss, its weighted parts, and held-out cross-entropy", xlabel="step")
    axes.set_ylabel("nats")
    axes.legend()


def draw_held_out(axes: Axes, evaluations: Entries, name: str, colour: str) -> None:
    """Points of one figure, with a line through them."""
    label = f"held-out {name.replace('_deployed', ' at lambda 1').replace('_', '-')}"
    axes.plot(*series(evaluations, name), "o-", color=colour, markersize=4, label=label)


def draw_accuracy(axes: Axes, evaluations: Entries) -> None:
    """The share of right answers on the held-out rows of a choice task."""
    found = [n for n in ("accuracy", "accuracy_deployed") if names(evaluations, n)]
    for name, colour in zip(found, plots.colours(len(found)), strict=True):
        draw_held_out(axes, evaluations, name, colour)
    axes.set(title="Held-out accuracy", xlabel="step", ylabel="share of the rows")
    axes.legend()


def draw_rates(axes: Axes, train: Entries) -> None:
    """Learning rate, and lambda on an axis of its own."""
    rate, blend = plots.colours(2)
    axes.plot(*series(train, "lr"), color=rate)
    axes.set(title="Learning rate and lambda", xlabel="step", ylim=(0, None))
    axes.set_ylabel("learning rate", color=rate)
    axes.yaxis.set_major_formatter("{x:g}")
    if names(train, "lambda"):
        other = axes.twinx()
        other.grid(False)
        other.plot(*series(train, "lambda"), color=blend)
        other.set_ylim(-0.02, 1.02)
        other.set_ylabel("lambda", color=blend)


def draw_gradient(axes: Axes, train: Entries) -> None:
    """Gradient norm before clipping and the norm that was allowed."""
    norm, limit = plots.colours(2)
    plots.draw_noisy(axes, *series(train, "grad_norm"), norm, "norm")
    axes.plot(*series(train, "grad_limit"), color=limit, label="clipped to")
    plots.fit_scale(axes)
    axes.set(title="Gradient norm before clipping", xlabel="step", ylabel="norm")
    axes.legend()


def draw_shares(axes: Axes, train: Entries) -> None:
    """Share of each loss term in the gradient, stacked to 1."""
    shares = names(train, "grad_share_")
    values = [series(train, name) for name in shares]
    labels = [name.removeprefix("grad_share_") for name in shares]
    rows = [share for _, share in values]
    axes.stackplot(values[0][0], *rows, labels=labels, colors=plots.colours(len(rows)))
    axes.set(title="Gradient norm of each loss term, share of their sum", xlabel="step")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower left", frameon=True)


def draw_latent(axes: Axes, histograms: Histograms) -> None:
    """One row a layer: how densely weights lie at each multiple of their scale."""
    num_layers = len(histograms.latent)
    axes.imshow(
        histograms.latent,
        aspect="auto",
        origin="lower",
        cmap="Blues",
        extent=(-RANGE, RANGE, -0.5, num_layers - 0.5),
        interpolation="nearest",
    )
    axes.grid(False)
    for threshold in (-0.5, 0.5):
        axes.axvline(threshold, color=plots.colours(2)[1], linewidth=1.2, linestyle="--")
    axes.set(title="Latent weights, darker: more; dashed: where the code changes", ylabel="layer")
    axes.set_xlabel("weight / scale (mean |W| of its matrix)")
    axes.yaxis.set_major_locator(_integers())


def _integers() -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def draw_codes(axes: Axes, histograms: Histograms) -> None:
    """Shares of the codes -1, 0 and 1 in each layer."""
    assert histograms.codes is not None
    plots.draw_code_shares(axes, range(len(histograms.codes)), histograms.codes.tolist())
    axes.set_title("Ternary codes")
