"""Metrics with their 95 % intervals, and the difference of two models on the same examples.

Every metric here is a function of sums over examples (right answers, a confusion matrix, n-gram
counts), so one bootstrap serves all: it draws examples anew and sums again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
RESAMPLES = 1000
SEED = 0
_ROWS_AT_ONCE = 100  # resamples that are held in memory together

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """`score` of the sums over `statistics`.

    statistics: [examples, k], one row per example. score: sums [..., k] to values [...].
    """

    name: str
    statistics: Floats
    score: Callable[[Floats], Floats]
    is_proportion: bool = False  # the mean of a column of zeros and ones
    higher_is_better: bool = True
    is_per_token: bool = False  # says nothing beside that of another tokenizer

    @property
    def value(self) -> float:
        return float(self.score(self.statistics.sum(axis=0)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error and 95 % interval; None where one example says nothing."""

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    interval: str  # how low and high were found

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def wilson_interval(correct: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion; unlike the normal one it is right at 0 and 1."""
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} of {total} is no proportion")
    share = correct / total
    center = share + z * z / (2 * total)
    half_width = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    norm = 1 + z * z / total
    return max(0.0, (center - half_width) / norm), min(1.0, (center + half_width) / norm)


def proportion(correct: int, total: int) -> Estimate:
    """A share with its Wilson interval."""
    low, high = wilson_interval(correct, total)
    share = correct / total
    stderr = math.sqrt(share * (1 - share) / (total - 1)) if total > 1 else None
    return Estimate(share, stderr, low, high, "wilson")


def estimate(metric: Metric) -> Estimate:
    """The metric with a Wilson interval if it is a proportion, else a percentile bootstrap."""
    if metric.is_proportion:
        return proportion(int(metric.statistics.sum()), len(metric.statistics))
    score = metric.score
    return _bootstrap(metric.statistics, lambda sums: score(sums), "bootstrap")


def paired_delta(model: Metric, teacher: Metric) -> Estimate:
    """Model minus teacher; the bootstrap draws the same examples for both.

    Raises ValueError when the two were not measured on as many examples.
    """
    if len(model.statistics) != len(teacher.statistics):
        raise ValueError(f"{len(model.statistics)} and {len(teacher.statistics)} are no pairs")
    width = model.statistics.shape[1]

    def difference(sums: Floats) -> Floats:
        return model.score(sums[..., :width]) - teacher.score(sums[..., width:])

    both = np.concatenate([model.statistics, teacher.statistics], axis=1)
    return _bootstrap(both, difference, "paired bootstrap")


def unpaired_delta(model: Metric, teacher: Metric) -> Estimate:
    """Model minus teacher where their examples are no pairs; each draws its own."""
    value, name = model.value - teacher.value, "unpaired bootstrap"
    if min(len(model.statistics), len(teacher.statistics)) < 2:
        return Estimate(value, None, None, None, name)
    own = _resampled(model.statistics, model.score, SEED)
    return _of_draws(value, own - _resampled(teacher.statistics, teacher.score, SEED + 1), name)


def _bootstrap(statistics: Floats, score: Callable[[Floats], Floats], name: str) -> Estimate:
    """Percentile bootstrap over the rows of `statistics`, always with the same draws."""
    value = float(score(statistics.sum(axis=0)))
    if len(statistics) < 2:
        return Estimate(value, None, None, None, name)
    return _of_draws(value, _resampled(statistics, score, SEED), name)


def _resampled(statistics: Floats, score: Callable[[Floats], Floats], seed: int) -> Floats:
    """[RESAMPLES]: the score of as many rows drawn with replacement."""
    draws = np.random.default_rng(seed)
    total = len(statistics)
    chances = np.full(total, 1 / total)
    return np.concatenate(
        [
            score(draws.multinomial(total, chances, size=_ROWS_AT_ONCE) @ statistics)
            for _ in range(RESAMPLES // _ROWS_AT_ONCE)
        ]
    )


def _of_draws(value: float, values: Floats, name: str) -> Estimate:
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(value, float(values.std(ddof=1)), float(low), float(high), name)
