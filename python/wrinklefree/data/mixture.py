"""Which source the next row comes from: by weights that may change while training runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wrinklefree.errors import UsageError


class Mixture:
    """A draw per row that depends on seed, stream, row number and the weights of that moment.

    There is no generator that advances, so nothing but the row number and the weights is needed
    to go on, and rows that workers prepared ahead do not bind the choice.
    """

    def __init__(self, weights: Sequence[float], *, seed: int, stream: int = 0) -> None:
        """`stream` tells ranks apart. Raises UsageError as `set_weights` does."""
        self._key = np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64)
        self._num_sources = len(weights)
        self.set_weights(weights)

    @property
    def shares(self) -> tuple[float, ...]:
        """Expected share of the rows of each source; the sum is 1."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def set_weights(self, weights: Sequence[float]) -> None:
        """New weights, from the next row on; they need not add up to 1.

        Raises UsageError for a negative or infinite one, another number of them, or all 0.
        """
        if len(weights) != self._num_sources:
            raise UsageError(f"{len(weights)} weights for {self._num_sources} sources")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise UsageError(f"mixture weights {list(weights)}: each must be finite and at least 0")
        if sum(weights) == 0:
            raise UsageError("mixture weights: one must be above 0")
        self.weights = tuple(float(weight) for weight in weights)

    def choose(self, row: int) -> int:
        """The source of row number `row`."""
        draw = np.random.Generator(np.random.Philox(key=self._key, counter=row)).random()
        bounds = np.cumsum(self.shares)
        chosen = int(np.searchsorted(bounds, draw, side="right"))
        # The last bound may be a bit below 1; a source without weight is never chosen.
        return min(chosen, max(i for i, weight in enumerate(self.weights) if weight > 0))
