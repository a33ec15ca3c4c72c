"""Evaluation in torch: artifacts (at any lambda) and plain Hugging Face directories.

Shapes: ids_BL are token ids [B, L], hidden_BLD the last hidden states, logits_BTV [B, T, V].
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
from wrinklefree.models import bit_linears, is_artifact, load_artifact, load_teacher


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
        for layer in bit_linears(model):
            layer.hold_weight()
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
        """Rows of equal length share a batch, so nothing is padded and no mask is needed.

        The last token of a choice is only scored, never read: choices of one token share a row.
        """
        scores = [[0.0] * len(question.choices) for question in questions]
        by_shape: dict[tuple[int, int], dict[tuple[int, ...], list[tuple[int, int]]]]
        by_shape = defaultdict(lambda: defaultdict(list))
        for number, question in enumerate(questions):
            for index, choice in enumerate(question.choices):
                row = (*question.prompt, *choice[:-1])
                by_shape[len(row), len(choice)][row].append((number, index))
        for (_, num_scored), places_of in sorted(by_shape.items(), key=lambda item: item[0]):
            rows = list(places_of)
            for start in range(0, len(rows), self._batch):
                part = rows[start : start + self._batch]
                logits_BTV = self._logits(torch.tensor(part), num_scored)
                for row, logits_TV in zip(part, logits_BTV, strict=True):
                    for number, index in places_of[row]:
                        targets_T = torch.tensor(questions[number].choices[index])
                        scores[number][index] = float(_picked(logits_TV, targets_T).sum())
        return scores

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        tokens_L = torch.tensor(list(ids))
        logits_TV = self._logits(tokens_L[None, :-1], len(tokens_L) - 1)[0]
        array: np.ndarray = _picked(logits_TV, tokens_L[1:]).numpy()
        return array

    @torch.inference_mode()
    def _logits(self, ids_BL: torch.Tensor, num_scored: int) -> torch.Tensor:
        """Logits [B, num_scored, vocab] after the last tokens of each row."""
        hidden_BLD = self._model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
        # The head is as large as the rest of a small model: only the scored positions need it.
        logits_BTV: torch.Tensor = self._model.get_output_embeddings()(hidden_BLD[:, -num_scored:])
        return logits_BTV


def _picked(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [T] of the targets, in float64."""
    chosen_T = logits_TV.gather(-1, targets_T[:, None])[:, 0].double()
    return chosen_T - logits_TV.logsumexp(-1).double()
