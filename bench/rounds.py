"""Timing in turns: every run once a round, ceilings in between, so that a busy moment of a shared
machine hits all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A run whose warm-up takes longer is not repeated: only torch's slowest baselines are so slow.
SLOW_S = 2.0


@dataclass(frozen=True, slots=True)
class Rounds:
    seconds: dict[str, list[float]]  # of each run, one a round
    ceilings: dict[str, list[float]]  # before the first round and after every round

    def median_s(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def share(self, name: str, work: float, ceiling: str) -> float:
        """Median of work per second over the higher of the ceilings right before and after."""
        limits = self.ceilings[ceiling]
        return statistics.median(
            work / seconds / max(limits[i], limits[i + 1])
            for i, seconds in enumerate(self.seconds[name])
        )


def measure(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    ceilings: Mapping[str, Callable[[], float]] | None = None,
) -> Rounds:
    """One warm-up of every run, then `repeats` rounds; a ceiling returns work per second."""
    ceilings = ceilings or {}

    def timed(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    seconds = {name: [timed(run)] for name, run in runs.items()}
    repeated = [name for name in runs if seconds[name][0] <= SLOW_S]
    for name in repeated:
        seconds[name].clear()
    limits = {name: [ceiling()] for name, ceiling in ceilings.items()}
    for _ in range(repeats):
        for name in repeated:
            seconds[name].append(timed(runs[name]))
        for name, ceiling in ceilings.items():
            limits[name].append(ceiling())
    return Rounds(seconds, limits)
