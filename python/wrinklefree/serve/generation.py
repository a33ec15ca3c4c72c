"""One choice of one request on its way through the engine thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wrinklefree.engine import SamplingParams
from wrinklefree.serve.grammar import Grammar
from wrinklefree.serve.model import Token
from wrinklefree.serve.settings import whole_pages
from wrinklefree.serve.streaming import Delta, TextStream

FinishReason = Literal["stop", "length", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Clock:
    """Moments of a generation, in seconds of time.perf_counter; 0 where it never came so far."""

    submitted: float
    started: float
    first_token: float
    finished: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a generation."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    clock: Clock


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens of a prompt with their log-probabilities, where they were asked for."""

    tokens: Sequence[Token]


Event = Prompt | Delta | Finished


@dataclass(slots=True, eq=False)
class Generation:
    """Written by the engine thread only, except `cancelled`, which any thread may set."""

    prompt: Sequence[int]
    sampling: SamplingParams
    max_tokens: int
    end_ids: frozenset[int]
    text: TextStream
    emit: Callable[[Event], None]
    scores_prompt: bool = False
    grammar: Grammar | None = None
    cancelled: bool = False
    slot: Any = None
    num_fed: int = 0
    num_cached: int = 0
    generated: list[int] = field(default_factory=list)
    submitted: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    first_token: float = 0.0
    scored: list[Token] = field(default_factory=list)

    @property
    def num_unfed(self) -> int:
        """Prompt tokens that the engine has not seen yet."""
        return len(self.prompt) - self.num_fed

    @property
    def max_length(self) -> int:
        """Tokens that it may become, prompt included."""
        return len(self.prompt) + self.max_tokens

    @property
    def kv_tokens(self) -> int:
        """Tokens whose memory it may take."""
        return whole_pages(self.max_length)

    @property
    def num_generated(self) -> int:
        return len(self.generated)

    @property
    def tokens(self) -> list[int]:
        """What its slot holds: the last sampled token was not fed."""
        return [*self.prompt[: self.num_fed], *self.generated[:-1]]

    def finished(self, reason: FinishReason) -> Finished:
        clock = Clock(self.submitted, self.started, self.first_token, time.perf_counter())
        return Finished(reason, len(self.prompt), self.num_cached, self.num_generated, clock)
