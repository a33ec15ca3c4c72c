"""What an evaluation says: figures with their interval, and everything that could move them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson_interval(correct: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion; unlike the normal one it is right at 0 and 1."""
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} of {total} is no proportion")
    share = correct / total
    center = share + z * z / (2 * total)
    half_width = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    norm = 1 + z * z / total
    return max(0.0, (center - half_width) / norm), min(1.0, (center + half_width) / norm)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of right answers with its 95 % interval."""

    accuracy: float
    low: float
    high: float
    correct: int
    total: int

    @classmethod
    def of(cls, correct: int, total: int) -> Accuracy:
        low, high = wilson_interval(correct, total)
        return cls(correct / total, low, high, correct, total)

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.total}"


@dataclass(frozen=True, slots=True)
class InputCounts:
    """What was done to the inputs: shortened prompts and begin-of-sequence tokens in front."""

    records: int
    truncated: int
    with_bos: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ChoiceReport:
    """Accuracy by summed log-likelihood of the choices."""

    model: str
    backend: str
    task: str
    context: int
    model_accuracy: Accuracy
    baselines: dict[str, Accuracy]
    inputs: InputCounts

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PerplexityReport:
    """Perplexity over windows of `context` tokens.

    bits_per_byte: nats per token x tokens per byte / ln 2, so that tokenizers can be compared.
    """

    model: str
    backend: str
    data: str
    context: int
    perplexity: float
    nats_per_token: float
    bits_per_byte: float
    scored_tokens: int
    windows: int
    documents: int
    with_bos: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
