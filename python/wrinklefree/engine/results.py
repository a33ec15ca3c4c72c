"""Values that go into and come out of `LLM`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wrinklefree import _engine
from wrinklefree.errors import UsageError

# First and last value, so that the engine's integers hold them.
_RANGES = {
    "seed": (0, 2**64 - 1, "0 to 2^64-1, or -1 for a random one"),
    "top_k": (0, 2**63 - 1, "0 (off) to 2^63-1"),
    "logprobs": (0, 64, "0 to 64"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen; temperature 0 takes the most likely one.

    Order: logit_bias and penalties, temperature, then top_k, min_p and top_p (all off by default).
    `logprobs` reports log probabilities, of the chosen tokens and of so many most likely ones: all
    logits are computed for that, where temperature 0, top_k or min_p need only a few. `seed` is a
    random one if it is None or, as in llama.cpp, -1.
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

    def sampler(self, prompt: Sequence[int] = ()) -> _engine.Sampler:
        """A fresh sampler, whose repetition penalty knows the tokens of the prompt. Raises
        UsageError for a value out of range."""
        seed = None if self.seed == -1 else self.seed
        for name, value in (("seed", seed), ("top_k", self.top_k), ("logprobs", self.logprobs)):
            first, last, allowed = _RANGES[name]
            if value is not None and not first <= value <= last:
                raise UsageError(f"{name} must be {allowed}, not {value}")
        for token, _ in self.logit_bias:
            if not 0 <= token < 2**31:
                raise UsageError(f"logit_bias: token {token} is not in the vocabulary")
        try:
            sampler = _engine.Sampler(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                min_p=self.min_p,
                seed=seed,
                top_logprobs=self.logprobs,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                repetition_penalty=self.repetition_penalty,
                logit_bias=list(self.logit_bias),
            )
        except _engine.ModelError as error:
            raise UsageError(str(error)) from None
        if self.repetition_penalty != 1.0:
            sampler.observe(prompt)
        return sampler


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
