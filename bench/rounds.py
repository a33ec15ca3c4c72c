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
# Shares of a ceiling that noise explains.
LARGEST_SHARE = 1.02


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

    def share_of_best(self, name: str, work: float, ceiling: str) -> float:
        """The same with the highest ceiling of all, for one that does not drift: the multiplier.
        A short loop that another program interrupts shows less than there is.
        """
        return work / self.median_s(name) / max(self.ceilings[ceiling])


def measure(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    ceilings: Mapping[str, Callable[[], float]] | None = None,
    *,
    budget_s: float = 5.0,
) -> Rounds:
    """One warm-up of every run, then `repeats` rounds; a ceiling returns work per second.

    After `budget_s` no further round starts: a busy machine gets fewer rounds, at least one.
    """
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
    start = time.perf_counter()
    for done in range(repeats):
        if done > 0 and time.perf_counter() - start > budget_s:
            break
        for name in repeated:
            seconds[name].append(timed(runs[name]))
        for name, ceiling in ceilings.items():
            limits[name].append(ceiling())
    return Rounds(seconds, limits)


def impossible(shares: Mapping[str, float]) -> dict[str, float]:
    """Those above the ceiling: the kernel or the ceiling was measured wrongly."""
    return {key: value for key, value in shares.items() if value > LARGEST_SHARE}
