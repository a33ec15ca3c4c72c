from __future__ import annotations

import pytest

from wrinklefree.eval.report import Accuracy, wilson_interval


# Golden values: statsmodels' proportion_confint(method="wilson"), and Newcombe (1998), table I.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (3, 2), (-1, 5)])
def test_no_proportion(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(correct, total)


def test_accuracy_prints_its_interval_and_n() -> None:
    assert str(Accuracy.of(81, 263)) == "0.308 [0.255, 0.366] n=263"
