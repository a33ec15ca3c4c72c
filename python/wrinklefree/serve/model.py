"""The little that the server asks of an engine, so that tests can script one without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wrinklefree.engine import SamplingParams
from wrinklefree.serve.responses import ModelMeta


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text; its log-probability (nats) and the most likely ones, where asked for.

    `logprob` is None for the first token of a prompt: nothing comes before it.
    """

    id: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens to append to one slot in a step.

    `samples` asks for the token that follows them; `targets` are tokens that do follow, the first
    of them after the first of `tokens`, and are to be scored. `allowed` are the tokens that may be
    sampled, 32 in a word; None: all.
    """

    slot: Any
    tokens: Sequence[int]
    samples: bool
    targets: Sequence[int] = ()
    allowed: NDArray[np.uint32] | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """What became of one `Work`: the sampled token, if any, and the scored targets."""

    token: Token | None = None
    scored: Sequence[Token] = ()


class Tokenizer(Protocol):
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_ids(self) -> Sequence[int]: ...
    @property
    def special_tokens(self) -> Mapping[str, int]: ...
    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def token_bytes(self, token_id: int) -> bytes: ...
    def is_special(self, token_id: int) -> bool: ...


class ServedModel(Protocol):
    """A loaded model. `open` and `step` are called by the engine thread alone."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def context_length(self) -> int: ...
    @property
    def meta(self) -> ModelMeta:
        """What /v1/models tells about the model."""

    @property
    def default_sampling(self) -> Mapping[str, Any]:
        """Fields of SamplingParams that hold where a request does not say."""

    def chat_ids(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Prompt ids of a conversation, in the form chat templates take; raises WrinklefreeError
        if the template refuses it."""

    def open(self, prompt: Sequence[int], sampling: SamplingParams, *, max_tokens: int) -> Any:
        """A slot with room for `max_tokens` tokens; its memory is freed with the object. The
        prompt, which is not in it yet, is for the repetition penalty."""

    def fork(
        self,
        slot: Any,
        length: int,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
    ) -> Any:
        """A new slot with the first `length` tokens of another one, which goes on as it is."""

    def slot_bytes(self, slot: Any) -> int:
        """Memory of a slot's keys and values."""

    @property
    def head_counts(self) -> tuple[int, int]:
        """Outputs whose logits were screened by cheap bounds so far, and the rows of the head that
        were then computed exactly for them."""

    def step(self, work: Sequence[Work]) -> Sequence[Stepped]:
        """Runs all of `work` in one batch."""
