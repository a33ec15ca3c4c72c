"""Bytes of a step against sizes worked out by hand, and what the picture holds."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from wrinklefree.bench import roofline
from wrinklefree.bench.traffic import prefill_bytes, step_bytes

INFO = {
    "rows_per_pass": 128,
    "head_rows_per_pass": 16,
    "layer_weight_bytes": 1000,
    "head_weight_bytes": 600,
    "head_screen_bytes": 200,
    "head": "stored",
    "vocab_size": 100,
    "kv_bytes_per_token": 7,
}


def test_bytes_of_a_step() -> None:
    decode = {"rows": 1, "positions": 10, "outputs": 1}
    assert step_bytes(INFO, **decode) == 1000 + 600 + 70
    assert step_bytes(INFO, **decode | {"outputs": 0}) == 1000 + 70
    screened = INFO | {"head": "screened"}
    assert step_bytes(screened, **decode, rescored=12) == 1000 + 200 + 12 * 6 + 70
    # 20 rows are two passes of the head, 130 rows two of the layers.
    assert step_bytes(INFO, rows=20, positions=0, outputs=20) == 1000 + 2 * 600
    assert step_bytes(INFO, rows=130, positions=0, outputs=0) == 2 * 1000
    assert prefill_bytes(INFO, 200) == 2 * 1000 + 600 + (128 + 200) * 7


def test_a_point_is_work_per_byte_and_per_second() -> None:
    point = roofline.point("x", tokens_per_s=50, macs=4e9, bytes_per_token=1e9)
    assert point == {"name": "x", "macs_per_byte": 4, "gmacs": 200}


@pytest.mark.parametrize("peak", [60.0, 0.0])
def test_the_picture_has_the_roofs_and_every_point(peak: float) -> None:
    points = [
        {"name": "decode", "macs_per_byte": 2.0, "gmacs": 20.0},
        {"name": "prefill", "macs_per_byte": 300.0, "gmacs": 50.0},
    ]
    figures: dict[str, Any] = {
        "read_gbps": 15.0,
        "multiply_gmacs": peak,
        "multiply_instruction": "avx2_maddubs" if peak else "",
        "points": points,
    }
    axes = Figure().subplots()
    roofline.draw(axes, figures, "a model")
    lines = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    roofs, dots = lines[: 1 + bool(peak)], lines[1 + bool(peak) :]
    assert [dot for (dot,) in dots] == [(2, 20), (300, 50)]
    assert all(y == pytest.approx(15 * x) for x, y in roofs[0])
    if peak:
        assert roofs[0][-1] == roofs[1][0] == (4, 60), "the roofs meet"
        assert roofs[1][1][1] == 60
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < 2 < 300 < right
    assert bottom < 20 < 50 < top
    legend = axes.get_legend()
    assert legend is not None
    named = [text.get_text() for text in legend.get_texts()]
    # 2 multiply-adds a byte at 15 GB/s could be 30; 300 are under the other roof, if there is one.
    assert named == [
        "decode: 67% of its roof",
        f"prefill: {'83%' if peak else '1%'} of its roof",
    ]
    assert axes.get_title() == "a model"
