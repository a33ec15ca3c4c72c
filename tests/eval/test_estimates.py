"""Intervals against published values and against what theory says."""

from __future__ import annotations

import numpy as np
import pytest

from wrinklefree.eval.classification import accuracy, f1, matthews
from wrinklefree.eval.estimates import (
    estimate,
    paired_delta,
    proportion,
    unpaired_delta,
    wilson_interval,
)


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


def test_an_estimate_prints_its_interval() -> None:
    assert str(proportion(81, 263)) == "0.3080 [0.2553, 0.3662]"


def test_metrics_by_hand() -> None:
    # Confusion of label 1: 6 true positives, 2 false positives, 1 false negative, 3 true negatives.
    given = [1] * 6 + [1] * 2 + [0] * 1 + [0] * 3
    labels = [1] * 6 + [0] * 2 + [1] * 1 + [0] * 3
    assert accuracy(given, labels).value == 9 / 12
    assert f1(given, labels).value == pytest.approx(12 / 15)
    # (6 * 3 - 2 * 1) / sqrt(8 * 7 * 5 * 4), sklearn.metrics.matthews_corrcoef gives the same
    assert matthews(given, labels).value == pytest.approx(0.4780914, abs=1e-6)


def test_a_constant_answer_has_neither_correlation_nor_a_division_by_zero() -> None:
    assert matthews([1, 1, 1], [1, 0, 1]).value == 0
    assert f1([0, 0, 0], [0, 0, 0]).value == 0


def test_bootstrap_agrees_with_theory() -> None:
    draws = np.random.default_rng(1)
    labels = draws.integers(0, 2, 2000)
    given = np.where(draws.random(2000) < 0.8, labels, 1 - labels)
    # With labels half and half the correlation is 2 p - 1, p the share of right answers.
    measured = estimate(matthews(given, labels))
    assert measured.stderr == pytest.approx(2 * (0.8 * 0.2 / 2000) ** 0.5, rel=0.1)
    assert measured.low is not None
    assert measured.high is not None
    assert measured.high - measured.low == pytest.approx(2 * 1.96 * measured.stderr, rel=0.1)


def test_pairs_are_compared_on_the_same_examples() -> None:
    labels = [1] * 400
    teacher = [1] * 300 + [0] * 100
    student = [1] * 290 + [0] * 110  # wrong wherever the teacher is, and on ten more
    delta = paired_delta(accuracy(student, labels), accuracy(teacher, labels))
    assert delta.value == pytest.approx(-0.025)
    # sqrt(p (1 - p) / n) of the ten changed answers; unpaired it would be four times as much.
    assert delta.stderr == pytest.approx((0.025 * 0.975 / 400) ** 0.5, rel=0.1)
    assert delta.high is not None
    assert delta.high < 0
    same = paired_delta(accuracy(teacher, labels), accuracy(teacher, labels))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_without_pairs_both_sides_vary() -> None:
    one, other = (
        accuracy([1] * 300 + [0] * 100, [1] * 400),
        accuracy([1] * 80 + [0] * 20, [1] * 100),
    )
    delta = unpaired_delta(one, other)
    assert delta.value == pytest.approx(-0.05)
    assert delta.stderr == pytest.approx((0.75 * 0.25 / 400 + 0.8 * 0.2 / 100) ** 0.5, rel=0.1)
    assert delta.low is not None
    assert delta.high is not None
    assert delta.low < -0.05 < 0 < delta.high
    # Not even the same examples are drawn together.
    assert unpaired_delta(one, one).stderr == pytest.approx((2 * 0.75 * 0.25 / 400) ** 0.5, rel=0.1)
    assert unpaired_delta(one, accuracy([1], [1])).low is None


def test_different_examples_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_delta(accuracy([1], [1]), accuracy([1, 1], [1, 1]))
