"""Perplexity over windows of a fixed number of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.backend import Backend

Progress = Callable[[int, int], None]  # windows done, windows in all


@dataclass(frozen=True, slots=True)
class PerplexityResult:
    """Sums over all scored tokens; `num_bytes` and `num_tokens` are of the whole text."""

    nats: float
    scored_tokens: int
    windows: int
    with_bos: int
    num_tokens: int
    num_bytes: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.scored_tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_token / math.log(2) * self.num_tokens / self.num_bytes


def run_perplexity(
    backend: Backend,
    documents: Sequence[str],
    *,
    context: int,
    limit: int | None = None,
    progress: Progress | None = None,
) -> PerplexityResult:
    """Each document is cut into windows of `context` tokens that do not overlap.

    Every window starts with the tokenizer's begin-of-sequence token, if the tokenizer adds one;
    without it the first token of a window has nothing before it and is not scored. `limit` is the
    largest number of windows.
    """
    adds_bos = backend.encode("a", add_special=True)[:1] == [backend.bos_id]
    head = [backend.bos_id] if adds_bos and backend.bos_id is not None else []
    windows: list[list[int]] = []
    num_tokens = num_bytes = 0
    for document in documents:
        ids = backend.encode(document, add_special=True)[len(head) :]
        num_tokens += len(ids)
        num_bytes += len(document.encode("utf-8"))
        step = context - len(head)
        windows += [head + ids[start : start + step] for start in range(0, len(ids), step)]
    windows = [window for window in windows if len(window) > 1][:limit]
    if not windows:
        raise UsageError("the data has no window of at least two tokens")
    nats, scored = 0.0, 0
    for number, window in enumerate(windows):
        if progress:
            progress(number, len(windows))
        logprobs = backend.logprobs(window)
        nats -= float(logprobs.sum(dtype="float64"))
        scored += len(logprobs)
    if not math.isfinite(nats):
        raise FormatError("the model gives NaN or infinite log-probabilities on this text")
    return PerplexityResult(
        nats, scored, len(windows), len(windows) if head else 0, num_tokens, num_bytes
    )
