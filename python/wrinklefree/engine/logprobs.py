"""Log-probabilities out of logits; sums in float64.

Shapes: logits [T, V] float32, targets [C, T] or [T] token ids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def target_logprobs(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """log softmax of the logits at the targets, in their shape, in nats."""
    shift, totals = _normalizers(logits)
    chosen = logits[np.arange(len(logits)), targets] - shift
    logprobs: NDArray[np.float64] = chosen.astype(np.float64) - totals
    return logprobs


def top_logprobs(logits: NDArray[np.float32], count: int) -> list[list[tuple[int, float]]]:
    """Per row the `count` likeliest tokens, likeliest first, the lower id first among equals.

    The same token has the same log-probability here and in `target_logprobs`, bit for bit.
    """
    if count == 0:
        return [[] for _ in logits]
    count = min(count, logits.shape[1])
    shifts, totals = _normalizers(logits)
    least = np.partition(logits, -count, axis=1)[:, -count]
    rows = []
    for row, bound, shift, total in zip(logits, least, shifts, totals, strict=True):
        ids = np.flatnonzero(row >= bound)
        ids = ids[np.argsort(-row[ids], kind="stable")][:count]
        logprobs = (row[ids] - shift).astype(np.float64) - total
        rows.append(list(zip(ids.tolist(), logprobs.tolist(), strict=True)))
    return rows


def _normalizers(
    logits: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The largest logit of each row, and the logarithm of the sum of exp(logit - largest)."""
    shift = logits.max(axis=1)
    return shift, np.log(np.exp(logits - shift[:, None]).sum(axis=1, dtype=np.float64))
