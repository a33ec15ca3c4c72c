"""Values that go into and come out of `LLM`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wrinklefree import _engine


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen; temperature 0 takes the most likely one.

    Order: logit_bias and penalties, temperature, then top_k, min_p and top_p (all off by default).
    `logprobs` reports log probabilities, of the chosen tokens and of so many most likely ones: all
    logits are computed for that, where temperature 0, top_k or min_p need only a few.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    def sampler(self) -> _engine.Sampler:
        """A fresh sampler.

        Raises `_engine.ModelError` for a value out of range.
        """
        return _engine.Sampler(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            seed=self.seed,
            top_logprobs=self.logprobs,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=list(self.logit_bias),
        )


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock seconds of one generation: the prompt with its first token, and the rest.

    `decode_steps` is how many steps of the engine the rest took.
    """

    prompt_s: float
    decode_s: float
    decode_steps: int


@dataclass(frozen=True, slots=True)
class Completion:
    """Generated text; ids end before the end token.

    `logprobs` are the model's own (nats), one per token id, or empty when SamplingParams did not
    ask for them. `finish_reason` is "length" when max_tokens or the context ended it.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class Score:
    """Log likelihood (nats, summed) of a continuation; is_greedy: each token was the likeliest."""

    logprob: float
    num_tokens: int
    is_greedy: bool
