"""Loss and accuracy on a fixed set of rows, now and as they would be deployed (lambda 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from wrinklefree.data.encode import IGNORE
from wrinklefree.data.loader import collate
from wrinklefree.data.packing import TokenRows
from wrinklefree.models.surgery import (
    get_lambda,
    quant_config_of,
    quantized_once,
    set_lambda,
)
from wrinklefree.training.forward import decode, device_of, head_input
from wrinklefree.training.head_loss import HeadInput, head_losses

MAX_ANSWERS = 32  # of a choice task; more different labels are text


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Evaluation rows; without rows nothing is measured."""

    rows: TokenRows | None
    batch_size: int

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Numbers in eval mode and float32: `cross_entropy` in nats per label; if each row has one
        label, the answer of a choice task, also `accuracy`, the share of rows whose answer is the
        likeliest of all answers that occur. While lambda is below 1 also `cross_entropy_deployed`
        and `accuracy_deployed`, those of the same weights at lambda 1."""
        if self.rows is None:
            return {}
        values = self._measure(model, self.rows)
        if quant_config_of(model) is not None and (lam := get_lambda(model)) < 1.0:
            set_lambda(model, 1.0)
            deployed = self._measure(model, self.rows)
            values |= {f"{name}_deployed": value for name, value in deployed.items()}
            set_lambda(model, lam)
        return values

    @torch.no_grad()
    def _measure(self, model: PreTrainedModel, rows: TokenRows) -> dict[str, float]:
        was_training = model.training
        model.train(False)
        device = device_of(model)
        answers = _answers(rows)
        total, correct = 0.0, 0
        with quantized_once(model):
            for start in range(0, len(rows), self.batch_size):
                indices = tuple(range(start, min(start + self.batch_size, len(rows))))
                batch = collate(rows, indices).to(device)
                hidden_PD = decode(model, batch).last_BLD[batch.is_label_BL]
                targets_P = batch.targets_BL[batch.is_label_BL]
                head = head_input(model, hidden_PD)
                total += float(head_losses(head, targets_P)[0])
                if answers is not None:
                    correct += _num_correct(head, answers.to(device), targets_P)
        model.train(was_training)
        values = {"cross_entropy": total / max(rows.num_labels, 1)}
        if answers is not None:
            values["accuracy"] = correct / len(rows)
        return values


def _answers(rows: TokenRows) -> torch.Tensor | None:
    """The different answers of rows with one label each; None for other rows."""
    targets = rows.targets[rows.targets != IGNORE]
    if len(targets) != len(rows):
        return None
    rows_of_labels = np.repeat(np.arange(len(rows)), rows.lengths)[rows.targets != IGNORE]
    answers = np.unique(targets)
    if len(np.unique(rows_of_labels)) < len(rows) or not 1 < len(answers) <= MAX_ANSWERS:
        return None
    return torch.from_numpy(answers.astype(np.int64))


def _num_correct(head: HeadInput, answers_N: torch.Tensor, targets_P: torch.Tensor) -> int:
    logits_PN = head.hidden_PD @ head.weight_VD[answers_N].T
    return int((answers_N[logits_PN.argmax(-1)] == targets_P).sum())
