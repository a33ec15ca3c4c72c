"""Perplexity over windows of a fixed number of tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.backend import Backend
from wrinklefree.eval.estimates import Estimate, Floats, Metric
from wrinklefree.eval.outcome import Counts, Outcome, Progress, context_of

_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class PerplexityTask:
    """Documents, cut into windows of `context` tokens that do not overlap.

    Every window starts with the tokenizer's begin-of-sequence token, if the tokenizer adds one;
    without it the first token of a window has nothing before it and is not scored. `limit` is the
    largest number of windows. Bits per byte are nats per scored token, times tokens per byte of the
    whole text, divided by ln 2, so that tokenizers can be compared.
    """

    data: str
    documents: Sequence[str]
    limit: int | None = None
    name: str = "ppl"

    @property
    def protocol(self) -> dict[str, Any]:
        """As the protocol says."""
        return {"documents": len(self.documents), "windows": "do not overlap"}

    @property
    def baselines(self) -> dict[str, dict[str, Estimate]]:
        """None: there is no model-free perplexity."""
        return {}

    def run(
        self, backend: Backend, *, context: int | None, batch: int, progress: Progress
    ) -> Outcome:
        """As the protocol says; windows are scored one by one, 512 tokens each by default."""
        context = context_of(backend, context, _CONTEXT)
        adds_bos = backend.encode("a", add_special=True)[:1] == [backend.bos_id]
        head = [backend.bos_id] if adds_bos and backend.bos_id is not None else []
        windows: list[list[int]] = []
        num_tokens = num_bytes = 0
        for document in self.documents:
            ids = backend.encode(document, add_special=True)[len(head) :]
            num_tokens += len(ids)
            num_bytes += len(document.encode("utf-8"))
            step = context - len(head)
            windows += [head + ids[start : start + step] for start in range(0, len(ids), step)]
        windows = [window for window in windows if len(window) > 1][: self.limit]
        if not windows:
            raise UsageError("the data has no window of at least two tokens")
        sums = []  # nats and scored tokens of each window
        examples = hashlib.sha256()
        for number, window in enumerate(windows):
            progress(number, len(windows))
            examples.update(np.array([len(window), *window], dtype=np.int64).tobytes())
            logprobs = backend.logprobs(window)
            sums.append((-float(logprobs.sum(dtype="float64")), len(logprobs)))
        progress(len(windows), len(windows))
        statistics = np.array(sums, dtype=np.float64)
        if not np.isfinite(statistics).all():
            raise FormatError("the model gives NaN or infinite log-probabilities on this text")
        scored = int(statistics[:, 1].sum())
        counts = Counts(len(windows), scored, 0, len(windows) if head else 0, context)
        metrics = _metrics(statistics, num_tokens / num_bytes)
        return Outcome(metrics, counts, examples.hexdigest())


def _metrics(statistics: Floats, tokens_per_byte: float) -> tuple[Metric, ...]:
    def nats(sums: Floats) -> Floats:
        return sums[..., 0] / sums[..., 1]

    def perplexity(sums: Floats) -> Floats:
        return np.exp(nats(sums))

    def bits(sums: Floats) -> Floats:
        return nats(sums) * (tokens_per_byte / math.log(2))

    return (
        Metric("perplexity", statistics, perplexity, higher_is_better=False, is_per_token=True),
        Metric("nats_per_token", statistics, nats, higher_is_better=False, is_per_token=True),
        Metric("bits_per_byte", statistics, bits, higher_is_better=False),
    )
