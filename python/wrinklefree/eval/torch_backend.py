"""Evaluation in torch: artifacts (at any lambda) and plain Hugging Face directories.

Shapes: ids_BL are token ids [B, L], hidden_BLD the last hidden states, logits_BTV [B, T, vocab].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from wrinklefree.errors import UsageError
from wrinklefree.eval.backend import Question
from wrinklefree.models import is_artifact, load_artifact, load_teacher


class TorchBackend:
    """A model in float32 on the CPU. `batch`: sequences of equal length that run together."""

    name = "torch"

    def __init__(self, path: Path, *, batch: int = 8) -> None:
        # A load bar would sit on stderr in front of our one-line errors.
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if is_artifact(path):
            loaded = load_artifact(path)
            model, tokenizer = loaded.model, loaded.tokenizer
        else:
            model, tokenizer = load_teacher(path)
        if tokenizer is None:
            raise UsageError(f"{path} has no tokenizer files")
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        self._batch = batch
        self.max_context = int(model.config.max_position_embeddings)

    @property
    def bos_id(self) -> int | None:
        token_id = self._tokenizer.bos_token_id
        return None if token_id is None else int(token_id)

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=add_special, verbose=False)
        return list(encoded["input_ids"])

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Rows of equal length share a batch, so nothing is padded and no mask is needed."""
        scores = [[0.0] * len(question.choices) for question in questions]
        by_shape: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for number, question in enumerate(questions):
            for index, choice in enumerate(question.choices):
                by_shape[len(question.prompt), len(choice)].append((number, index))
        for (_, num_scored), places in sorted(by_shape.items()):
            for start in range(0, len(places), self._batch):
                part = places[start : start + self._batch]
                rows = [questions[n].prompt + questions[n].choices[i] for n, i in part]
                sums = self._logprobs(torch.tensor(rows), num_scored).sum(-1)
                for (number, index), total in zip(part, sums.tolist(), strict=True):
                    scores[number][index] = total
        return scores

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        array: np.ndarray = self._logprobs(torch.tensor([list(ids)]), len(ids) - 1)[0].numpy()
        return array

    @torch.inference_mode()
    def _logprobs(self, ids_BL: torch.Tensor, num_scored: int) -> torch.Tensor:
        """Log-probabilities [B, num_scored] of the last tokens of each row, in float64."""
        hidden_BLD = self._model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
        # The head is as large as the rest of a small model: only the scored positions need it.
        logits_BTV: torch.Tensor = self._model.get_output_embeddings()(
            hidden_BLD[:, -num_scored - 1 : -1]
        )
        targets = ids_BL[:, -num_scored:].unsqueeze(-1)
        picked = logits_BTV.gather(-1, targets).squeeze(-1).double()
        return picked - logits_BTV.logsumexp(-1).double()
