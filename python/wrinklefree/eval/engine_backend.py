"""Evaluation in the native engine: .gguf files and artifacts at lambda = 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wrinklefree.engine import LLM, SamplingParams
from wrinklefree.engine.results import Score
from wrinklefree.eval.backend import Answer, Question


class EngineBackend:
    """A model in the engine, whose scores do not depend on how inputs are batched."""

    name = "engine"

    def __init__(self, path: Path) -> None:
        self._llm = LLM(path)
        self.max_context = int(self._llm.info["context_length"])

    @property
    def bos_id(self) -> int | None:
        return self._llm.tokenizer.bos_id

    @property
    def eos_id(self) -> int | None:
        return next(iter(self._llm.tokenizer.eos_ids), None)

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return self._llm.tokenizer.encode(text, add_special=add_special)

    def score(self, questions: Sequence[Question]) -> list[list[Score]]:
        return [self._llm.score(question.prompt, question.choices) for question in questions]

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        return self._llm.logprobs(ids)

    def generate(
        self, prompts: Sequence[list[int]], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> list[Answer]:
        greedy = SamplingParams(temperature=0.0)
        done = [
            self._llm.generate(ids, max_tokens=max_tokens, sampling=greedy, stop=stop)
            for ids in prompts
        ]
        return [Answer(answer.text, answer.finish_reason == "stop") for answer in done]

    def close(self) -> None:
        self._llm.close()
