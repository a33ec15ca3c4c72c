"""Mainline llama.cpp (through xllamacpp) as a judge: a file's log-probabilities per token."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

xllamacpp = pytest.importorskip("xllamacpp", reason="peer not installed: pip install xllamacpp")


class LlamaCpp:
    """A loaded file. `next_tokens` runs greedily and returns per step {token id: log-prob}."""

    def __init__(self, path: Path) -> None:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 256
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = 1
        parameters.warmup = False
        parameters.verbosity = -1
        self._server = xllamacpp.Server(parameters)

    def next_tokens(
        self, prompt: Sequence[int] | str, *, steps: int, top: int
    ) -> list[dict[int, float]]:
        """The `top` likeliest tokens of each of `steps` greedy steps, likeliest first."""
        answer = self._complete(
            prompt=prompt if isinstance(prompt, str) else list(prompt),
            n_predict=steps,
            n_probs=top,
            temperature=0.0,
        )
        content = answer["choices"][0]["logprobs"]["content"]
        assert len(content) == steps  # it may keep back steps whose text is no whole character
        return [
            {entry["id"]: entry["logprob"] for entry in step["top_logprobs"]} for step in content
        ]

    def prompt_tokens(self, text: str) -> int:
        """Number of tokens of a text in this file's tokenizer."""
        count: int = self._complete(prompt=text, n_predict=1)["usage"]["prompt_tokens"]
        return count

    def perplexity(self, ids: Sequence[int], *, vocab: int, first: int) -> float:
        """exp of the mean -log p(ids[t] | ids[..t]) over t >= first."""
        total = 0.0
        for position in range(first, len(ids)):
            step = self.next_tokens(ids[:position], steps=1, top=vocab)[0]
            total -= step[ids[position]]
        return math.exp(total / (len(ids) - first))

    def _complete(self, **request: Any) -> dict[str, Any]:
        answer = self._server.handle_completions(request)
        parsed: dict[str, Any] = json.loads(answer) if isinstance(answer, str) else answer
        if "choices" not in parsed:
            raise AssertionError(f"llama.cpp: {parsed}")
        return parsed
