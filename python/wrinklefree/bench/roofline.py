"""Work per byte against work per second, under the two limits of a machine: memory and multiplier.

Work is multiply-adds of ternary layers, so time that goes to attention and the head shows as
distance from the roof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wrinklefree import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def point(name: str, *, tokens_per_s: float, macs: float, bytes_per_token: float) -> dict[str, Any]:
    """One kind of step; `macs` are the multiply-adds of a token."""
    return {
        "name": name,
        "macs_per_byte": float(f"{macs / bytes_per_token:.4g}"),
        "gmacs": float(f"{tokens_per_s * macs / 1e9:.4g}"),
    }


def draw(axes: Axes, roofline: dict[str, Any], title: str) -> None:
    """Roofs as lines and points with their names.

    `roofline` has read_gbps, multiply_gmacs (0: unknown, no such roof), multiply_instruction and
    points, as `bench_model` returns it.
    """
    points = roofline["points"]
    bandwidth, peak = roofline["read_gbps"], roofline["multiply_gmacs"]
    xs = [p["macs_per_byte"] for p in points]
    # The picture begins well below the lowest point, where the memory roof is just as low.
    bottom = min(p["gmacs"] for p in points) / 4
    left, right = bottom / bandwidth, 2 * max(xs)
    # Where the roofs meet; without the second one the first goes on.
    ridge = peak / bandwidth if peak else right
    right = max(right, 4 * ridge) if peak else right
    plots.use_log_scale(axes, "x", "y")
    axes.plot([left, ridge], [bottom, bandwidth * ridge], color=plots.INK)
    beside = left**0.25 * ridge**0.75
    axes.annotate(
        f"memory: {bandwidth:.1f} GB/s",
        (beside, bandwidth * beside),
        xytext=(-6, 0),
        textcoords="offset points",
        ha="right",
    )
    if peak:
        axes.plot([ridge, right], [peak, peak], color=plots.INK)
        axes.annotate(
            f"{roofline['multiply_instruction']}: {peak:.0f} GMAC/s",
            (right, peak),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
        )
    for p, colour in zip(points, plots.colours(len(points)), strict=True):
        roof = bandwidth * p["macs_per_byte"]
        share = p["gmacs"] / (min(roof, peak) if peak else roof)
        label = f"{p['name']}: {share:.0%} of its roof"
        axes.plot(p["macs_per_byte"], p["gmacs"], "o", color=colour, label=label)
    axes.set(
        title=title,
        xlabel="ternary multiply-adds per byte read",
        ylabel="ternary multiply-adds, 10⁹ per second",
        xlim=(left, right),
        ylim=(bottom, 2 * bandwidth * ridge),
    )
    axes.legend(loc="lower right")
