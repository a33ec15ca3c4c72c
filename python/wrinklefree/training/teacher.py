"""The frozen teacher and what the objective asks of it (teacher_cache.py keeps it on disk)."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrinklefree.data.loader import Batch
from wrinklefree.errors import UsageError
from wrinklefree.training.forward import Hidden, decode, head_input
from wrinklefree.training.head_loss import HeadInput
from wrinklefree.training.losses import check_split_heads
from wrinklefree.training.objective import Objective, TeacherOutputs, state_widths
from wrinklefree.training.precision import Precision


class Teacher:
    """Outputs of a frozen model in the form that an objective compares with."""

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        *,
        student: PreTrainedModel,
        precision: Precision,
    ) -> None:
        check_match(model, student, objective)
        self.model = model.train(False).requires_grad_(False)
        self.model.to(precision.device)
        self.objective = objective
        self.precision = precision
        layers = objective.relation_layers if objective.gamma > 0 else ()
        # By the student's layer the teacher's that it is compared with.
        self.layer_of = {layer: _same_depth(layer, student, model) for layer in layers}

    def __call__(self, batch: Batch) -> TeacherOutputs:
        """What the objective needs for this batch."""
        hidden = self.decode(batch)
        head = self.head(hidden.last_BLD[self.objective.kd_positions_BL(batch)])
        return TeacherOutputs(head, hidden.layers_BLD, hidden.relation)

    @torch.no_grad()
    def decode(self, batch: Batch) -> Hidden:
        """Hidden and relation states, the latter keyed by the student's layers."""
        with self.precision.autocast():
            hidden = decode(
                self.model,
                batch,
                relation_layers=tuple(self.layer_of.values()),
                with_layers=self.objective.layerwise_weight > 0,
            )
        relation = {own: hidden.relation[theirs] for own, theirs in self.layer_of.items()}
        return Hidden(hidden.last_BLD, hidden.layers_BLD, relation)

    def head(self, hidden_PD: torch.Tensor) -> HeadInput | None:
        """What the logits of final hidden states are made of; None when no term compares them."""
        return head_input(self.model, hidden_PD) if self.objective.kd_weight > 0 else None


def _same_depth(layer: int, student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """The teacher's layer at the same relative depth (the same layer for equal depths)."""
    own, theirs = int(student.config.num_hidden_layers), int(teacher.config.num_hidden_layers)
    return max(round((layer + 1) * theirs / own) - 1, 0)


def check_tokens(
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_rows: int,
) -> None:
    """Raises UsageError unless the teacher reads the student's tokens as the same text.

    Every token that both tokenizers have must have one id, and the teacher a row for each of the
    student's. Embeddings may be padded differently; a teacher without a tokenizer must have the
    student's `num_rows`.
    """
    theirs, own = int(teacher.config.vocab_size), tokenizer.get_vocab()
    if teacher_tokenizer is None:
        if theirs != num_rows:
            raise UsageError(
                f"the teacher has {theirs} embedding rows, the student {num_rows}, and the "
                "teacher's directory has no tokenizer to show that their tokens are the same"
            )
        return
    vocabulary = teacher_tokenizer.get_vocab()
    moved = sorted(token for token, i in own.items() if vocabulary.get(token, i) != i)
    if moved:
        token = moved[0]
        raise UsageError(
            f"distillation needs the same tokenizer; {len(moved)} tokens have other ids in the "
            f"teacher's, such as {token!r} ({own[token]} and {vocabulary[token]})"
        )
    unknown = [token for token, i in own.items() if i >= theirs]
    if unknown:
        raise UsageError(
            f"the teacher has {theirs} embedding rows: too few for {len(unknown)} tokens of the "
            f"student, such as {unknown[0]!r}; distillation needs the same tokenizer"
        )


def check_match(teacher: PreTrainedModel, student: PreTrainedModel, objective: Objective) -> None:
    """Raises UsageError when the objective cannot compare these two models."""
    theirs, own = teacher.config, student.config
    if objective.gamma > 0:
        check_split_heads(objective.split_heads, *state_widths(student), *state_widths(teacher))
    if objective.layerwise_weight > 0:
        shape = (own.num_hidden_layers, own.hidden_size)
        if (theirs.num_hidden_layers, theirs.hidden_size) != shape:
            raise UsageError(
                f"the hidden-state loss needs a teacher of {shape[0]} layers and width {shape[1]}; "
                "for one of another size set training.layerwise_weight=0"
            )
