"""What running a task on one model gives: metrics, and everything that could move them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from wrinklefree.errors import UsageError
from wrinklefree.eval.backend import Backend
from wrinklefree.eval.estimates import Estimate, Metric

Progress = Callable[[int, int], object]  # examples done, examples in all


@dataclass(frozen=True, slots=True)
class Counts:
    """What the model was given, and how often that was less than all.

    tokens: that were scored or, for generation, read. truncated: inputs that were shortened to fit
    `context`. with_bos: inputs that begin with a begin-of-sequence token. unfinished: generated
    answers that were cut at the token limit. No chat template is ever applied.
    """

    examples: int
    tokens: int
    truncated: int
    with_bos: int
    context: int
    unfinished: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The metrics of one model on one task.

    examples: tells those of a tokenizer apart; the examples of two models are pairs if it is equal.
    """

    metrics: tuple[Metric, ...]
    counts: Counts
    examples: str = ""


class Task(Protocol):
    """Examples and how a model is asked about them."""

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> str:
        """Where the examples come from."""

    @property
    def protocol(self) -> dict[str, Any]:
        """Whatever decides the scores beside model and data, as JSON: prompt, choices, lengths."""

    @property
    def baselines(self) -> dict[str, dict[str, Estimate]]:
        """By name, the metrics of answers that need no model."""

    def run(
        self, backend: Backend, *, context: int | None, batch: int, progress: Progress
    ) -> Outcome:
        """Asks the model. `context` bounds its inputs, `batch` examples are asked at once."""


def context_of(backend: Backend, asked: int | None, default: int) -> int:
    """Tokens an input may have. Raises UsageError for more than the model was made for."""
    if asked is not None and asked > backend.max_context:
        raise UsageError(f"--context {asked} is more than the model's {backend.max_context} tokens")
    return min(asked or default, backend.max_context)
