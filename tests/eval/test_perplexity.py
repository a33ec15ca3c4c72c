"""Perplexity on a scripted backend, whose numbers can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.backend import Backend
from wrinklefree.eval.estimates import estimate
from wrinklefree.eval.outcome import Outcome
from wrinklefree.eval.perplexity import PerplexityTask


def run(backend: Backend, documents: list[str], context: int, limit: int | None = None) -> Outcome:
    task = PerplexityTask("text", documents, limit)
    return task.run(backend, context=context, batch=1, progress=lambda done, total: None)


def values(outcome: Outcome) -> dict[str, float]:
    return {metric.name: metric.value for metric in outcome.metrics}


def test_by_hand(scripted: Any) -> None:
    outcome = run(scripted(), ["ddddd"], context=3)
    # Windows "ddd" and "dd": 2 + 1 scored tokens of 1 nat each ('d' is 100).
    assert (outcome.counts.tokens, outcome.counts.examples) == (3, 2)
    expected = {"perplexity": math.e, "nats_per_token": 1.0, "bits_per_byte": 1 / math.log(2)}
    assert values(outcome) == pytest.approx(expected)


def test_the_interval_is_over_windows(scripted: Any) -> None:
    # Windows of one scored token each, of 1.00 or 1.20 nats.
    outcome = run(scripted(), ["dd" * 50 + "xx" * 50], context=2)
    nats = {metric.name: estimate(metric) for metric in outcome.metrics}["nats_per_token"]
    assert nats.value == pytest.approx(1.1)
    assert nats.stderr == pytest.approx(0.01, rel=0.1)  # 0.1 / sqrt(100)
    assert (nats.low, nats.high) == pytest.approx((1.08, 1.12), abs=0.004)
    one_window = run(scripted(), ["dd"], context=2)
    assert estimate(one_window.metrics[0]).low is None


def test_each_window_begins_with_the_begin_token(scripted: Any) -> None:
    backend = scripted(adds_bos=True)
    outcome = run(backend, ["abcd", "e"], context=3)
    assert backend.seen == [[backend.BOS, *b"ab"], [backend.BOS, *b"cd"], [backend.BOS, *b"e"]]
    assert (outcome.counts.tokens, outcome.counts.with_bos) == (5, 3)


def test_limit_counts_windows(scripted: Any) -> None:
    assert run(scripted(), ["a" * 30], context=10, limit=2).counts.examples == 2


def test_nan_is_an_error_and_not_a_result(scripted: Any) -> None:
    class Broken(scripted):
        def logprobs(self, ids: Sequence[int]) -> np.ndarray:
            return np.full(len(ids) - 1, np.nan)

    with pytest.raises(FormatError, match="NaN"):
        run(Broken(), ["abc"], context=3)


def test_a_single_token_has_no_perplexity(scripted: Any) -> None:
    with pytest.raises(UsageError, match="two tokens"):
        run(scripted(), ["a"], context=3)


def test_a_context_beyond_the_model_is_refused(scripted: Any) -> None:
    with pytest.raises(UsageError, match="more than the model's 64"):
        run(scripted(), ["abc"], context=65)
