"""Evaluation in torch: artifacts (at any lambda) and plain Hugging Face directories.

Shapes: ids_1L are the token ids of one row, hidden_1LD its last hidden states, logits_TV [T, V].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers
import torch
from transformers import GenerationConfig, StoppingCriteria
from transformers.utils import logging as transformers_logging

from wrinklefree.engine.detokenize import StopMatcher, StreamDecoder
from wrinklefree.engine.results import Score
from wrinklefree.engine.tokenizer import Tokenizer
from wrinklefree.errors import UsageError
from wrinklefree.eval.backend import Answer, Question
from wrinklefree.models import (
    bit_linears,
    get_lambda,
    is_artifact,
    load_artifact,
    load_teacher,
    quant_config_of,
)


class TorchBackend:
    """A model in float32 on the CPU.

    Rows are run one by one: float sums in torch depend on what shares a batch, scores must not.
    """

    def __init__(self, model: str, *, revision: str | None = None) -> None:
        # A load bar would sit on stderr in front of our one-line errors.
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if is_artifact(model):
            loaded = load_artifact(model)
            module, tokenizer = loaded.model, loaded.tokenizer
        else:
            module, tokenizer = load_teacher(model, revision=revision)
        if tokenizer is None:
            raise UsageError(f"{model} has no tokenizer files")
        context = getattr(module.config, "max_position_embeddings", None)
        if context is None:
            raise UsageError(f"{model}: its config.json tells no max_position_embeddings")
        # Scores below lambda 1 are not those of the ternary model: the report says so.
        lam = 1.0 if quant_config_of(module) is None else get_lambda(module)
        self.name = "torch" if lam == 1.0 else f"torch at lambda {lam:g}"
        for layer in bit_linears(module):
            layer.hold_weight()
        self._model: Any = module
        self._tokenizer: Any = tokenizer
        # The model's own settings may ask for penalties or sampling; answers are greedy.
        self._end_ids = _end_ids(module, tokenizer)
        module.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=self._end_ids or None, pad_token_id=0
        )
        self.max_context = int(context)

    @property
    def bos_id(self) -> int | None:
        token_id = self._tokenizer.bos_token_id
        return None if token_id is None else int(token_id)

    @property
    def eos_id(self) -> int | None:
        token_id = self._tokenizer.eos_token_id
        return None if token_id is None else int(token_id)

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=add_special, verbose=False)
        return list(encoded["input_ids"])

    def score(self, questions: Sequence[Question]) -> list[list[Score]]:
        """The last token of a choice is scored, never read: choices of one token share a row."""
        return [self._score(question) for question in questions]

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        tokens_L = torch.tensor(list(ids))
        array: np.ndarray = _picked(self._logits(ids[:-1], len(ids) - 1), tokens_L[1:]).numpy()
        return array

    def generate(
        self, prompts: Sequence[list[int]], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> list[Answer]:
        return [self._generate(ids, max_tokens, stop) for ids in prompts]

    def close(self) -> None:
        del self._model

    def _generate(self, prompt: list[int], max_tokens: int, stop: Sequence[str]) -> Answer:
        ids_1L = torch.tensor([prompt])
        writer = _Writer(self._vocabulary, self._end_ids, stop)
        self._model.generate(
            ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            max_new_tokens=max_tokens,
            do_sample=False,
            stopping_criteria=[writer],
        )
        return writer.answer()

    @cached_property
    def _vocabulary(self) -> Tokenizer:
        """The same tokenizer as the engine decodes with."""
        if not self._tokenizer.is_fast:
            raise UsageError("answers need a tokenizer with a tokenizer.json, this model has none")
        copy = tokenizers.Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        return Tokenizer(copy, bos_id=None, eos_ids=(), chat_template=None)

    def _score(self, question: Question) -> list[Score]:
        rows: dict[tuple[int, ...], torch.Tensor] = {}
        scores = []
        for choice in question.choices:
            read = tuple(choice[:-1])
            if read not in rows:
                rows[read] = self._logits([*question.prompt, *read], len(choice))
            targets_T = torch.tensor(choice)
            logprob = float(_picked(rows[read], targets_T).sum())
            is_greedy = torch.equal(rows[read].argmax(-1), targets_T)
            scores.append(Score(logprob, len(choice), is_greedy))
        return scores

    @torch.inference_mode()
    def _logits(self, ids: Sequence[int], num_scored: int) -> torch.Tensor:
        """Logits [num_scored, vocab] after the last tokens."""
        ids_1L = torch.tensor([list(ids)])
        hidden_1LD = self._model.base_model(input_ids=ids_1L, use_cache=False).last_hidden_state
        # The head is as large as the rest of a small model: only the scored positions need it.
        logits_TV: torch.Tensor = self._model.get_output_embeddings()(hidden_1LD[0, -num_scored:])
        return logits_TV


class _Writer(StoppingCriteria):
    """Makes the text of an answer and ends it as the engine does.

    transformers' own stop_strings also match across the end of the prompt, and its decoding drops
    the space of a first word.
    """

    def __init__(self, vocabulary: Tokenizer, end_ids: Sequence[int], stop: Sequence[str]) -> None:
        self._decoder, self._matcher = StreamDecoder(vocabulary), StopMatcher(stop)
        self._end_ids = end_ids
        self._text = ""
        self._is_finished = False

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        token = int(input_ids[0, -1])
        self._is_finished = token in self._end_ids
        if not self._is_finished:
            self._text += self._matcher.push(self._decoder.push(token))
            self._is_finished = self._matcher.is_stopped
        return torch.tensor([self._is_finished])

    def answer(self) -> Answer:
        rest = self._matcher.push(self._decoder.flush()) + self._matcher.flush()
        return Answer(self._text + rest, self._is_finished)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text, of the tokenizer and of the model's generation_config."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return sorted({tokenizer.eos_token_id, *listed} - {None})


def _picked(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [T] of the targets, in float64."""
    chosen_T = logits_TV.gather(-1, targets_T[:, None])[:, 0].double()
    return chosen_T - logits_TV.logsumexp(-1).double()
