"""Metrics of a choice task: accuracy, and what GLUE asks for beside or in place of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wrinklefree.eval.estimates import Floats, Metric


def accuracy(predictions: Sequence[int], labels: Sequence[int]) -> Metric:
    """Share of right answers."""
    is_right = np.equal(predictions, labels).astype(np.float64)
    total = len(labels)
    return Metric("acc", is_right[:, None], lambda sums: sums[..., 0] / total, is_proportion=True)


def f1(predictions: Sequence[int], labels: Sequence[int]) -> Metric:
    """F1 of label 1; 0 where it is neither given nor expected."""
    return Metric("f1", _confusion(predictions, labels), _f1)


def matthews(predictions: Sequence[int], labels: Sequence[int]) -> Metric:
    """Matthews correlation of two labels; 0 where either side is constant."""
    return Metric("mcc", _confusion(predictions, labels), _matthews)


# Metrics beside accuracy, by GLUE task (arXiv 1804.07461, section 3).
METRICS = {"mrpc": (accuracy, f1), "cola": (matthews, accuracy)}


def _confusion(predictions: Sequence[int], labels: Sequence[int]) -> Floats:
    """[examples, 4]: which of true positive, false positive, false negative, true negative."""
    given, expected = np.equal(predictions, 1), np.equal(labels, 1)
    cells = [given & expected, given & ~expected, ~given & expected, ~given & ~expected]
    return np.stack(cells, axis=1).astype(np.float64)


def _f1(sums: Floats) -> Floats:
    hits, false, missed = sums[..., 0], sums[..., 1], sums[..., 2]
    return _ratio(2 * hits, 2 * hits + false + missed)


def _matthews(sums: Floats) -> Floats:
    hits, false, missed, rejected = np.moveaxis(sums, -1, 0)
    norm = (hits + false) * (hits + missed) * (rejected + false) * (rejected + missed)
    return _ratio(hits * rejected - false * missed, np.sqrt(norm))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(below, dtype=np.float64), where=below > 0)
