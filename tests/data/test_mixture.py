"""Shares follow the weights, also when they change, and depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from wrinklefree.data.mixture import Mixture
from wrinklefree.errors import UsageError

ROWS = 4000


def realised(mixture: Mixture, start: int = 0) -> list[float]:
    chosen = [mixture.choose(row) for row in range(start, start + ROWS)]
    return (np.bincount(chosen, minlength=len(mixture.weights)) / ROWS).tolist()


@pytest.mark.parametrize("weights", [(1.0,), (1, 1), (6, 3, 1), (0, 5, 0.5, 0)])
def test_shares_converge_to_the_weights(weights: tuple[float, ...]) -> None:
    mixture = Mixture(weights, seed=3)
    # Four standard deviations of a share of 1/2.
    assert realised(mixture) == pytest.approx(mixture.shares, abs=4 * 0.5 / ROWS**0.5)
    assert all(share == 0 for share, w in zip(realised(mixture), weights, strict=True) if w == 0)


def test_new_weights_hold_from_the_next_row() -> None:
    mixture = Mixture([1, 1], seed=0)
    before = [mixture.choose(row) for row in range(200)]
    mixture.set_weights([0, 2])
    assert realised(mixture, 200) == [0, 1]
    mixture.set_weights([1, 1])
    assert [mixture.choose(row) for row in range(200)] == before


def test_seed_and_rank_decide() -> None:
    first, same, seed, rank = (
        [mixture.choose(row) for row in range(64)]
        for mixture in (
            Mixture([1, 1], seed=0),
            Mixture([1, 1], seed=0),
            Mixture([1, 1], seed=1),
            Mixture([1, 1], seed=0, stream=1),
        )
    )
    assert first == same
    assert len({tuple(first), tuple(seed), tuple(rank)}) == 3


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    mixture = Mixture([1, 2], seed=0)
    with pytest.raises(UsageError, match="weight"):
        mixture.set_weights(weights)
    assert mixture.weights == (1, 2)
