"""The native engine as the server sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wrinklefree import _engine
from wrinklefree.engine import LLM, SamplingParams, Tokenizer
from wrinklefree.engine.chat_template import chat_ids
from wrinklefree.engine.logprobs import target_logprobs, top_logprobs
from wrinklefree.serve.model import Stepped, Token, Work
from wrinklefree.serve.responses import ModelMeta


@dataclass(slots=True)
class _Slot:
    sequence: _engine.Sequence
    sampler: _engine.Sampler
    alternatives: int


class NativeModel:
    """A `ServedModel` over a loaded LLM."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self.tokenizer: Tokenizer = llm.tokenizer
        self.context_length: int = llm.info["context_length"]
        self.default_sampling = llm.default_sampling
        self.meta = ModelMeta(
            architecture=llm.info["architecture"],
            parameters=llm.info["total_parameters"],
            ternary_parameters=llm.info["ternary_parameters"],
            bits_per_weight=llm.info["bits_per_weight"],
            weight_bytes=llm.info["weight_bytes"],
            vocab_size=llm.info["vocab_size"],
            format=llm.info["format"],
            isa=llm.info["isa"],
            threads=llm.info["threads"],
        )

    def chat_ids(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        if self.tokenizer.chat_template is None and not tools:
            # A base model, or one tuned on plain prompts: it continues what was said so far.
            return self.tokenizer.encode("\n".join(message["content"] for message in messages))
        return chat_ids(self.tokenizer, messages, tools=tools)

    def open(self, prompt: Sequence[int], sampling: SamplingParams, *, max_tokens: int) -> _Slot:
        sampler = sampling.sampler(prompt)
        return _Slot(self._llm.model.sequence(max_tokens), sampler, sampling.logprobs or 0)

    def fork(
        self,
        slot: _Slot,
        length: int,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
    ) -> _Slot:
        sequence = self._llm.model.fork(slot.sequence, length, max_tokens)
        return _Slot(sequence, sampling.sampler(prompt), sampling.logprobs or 0)

    def slot_bytes(self, slot: _Slot) -> int:
        return slot.sequence.nbytes

    @property
    def head_counts(self) -> tuple[int, int]:
        return self._llm.model.head_counts

    def step(self, work: Sequence[Work]) -> list[Stepped]:
        for item in work:
            if item.allowed is not None:
                item.slot.sampler.allow(item.allowed)
        items = [
            _engine.StepItem(
                item.slot.sequence,
                item.tokens,
                item.slot.sampler if item.samples else None,
                "all" if item.targets else "none",
            )
            for item in work
        ]
        outputs = self._llm.model.step(items)
        return [_stepped(item, output) for item, output in zip(work, outputs, strict=True)]


def _stepped(item: Work, output: _engine.StepOutput) -> Stepped:
    token = Token(output.token, output.logprob, output.top) if item.samples else None
    if not item.targets:
        return Stepped(token)
    targets = np.array(item.targets)
    logits = output.logits[: len(targets)]  # the last row may have no target yet
    logprobs = target_logprobs(logits, targets).tolist()
    tops = top_logprobs(logits, item.slot.alternatives)
    return Stepped(token, [Token(*one) for one in zip(item.targets, logprobs, tops, strict=True)])
