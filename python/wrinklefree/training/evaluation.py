"""Cross-entropy on a fixed set of rows, now and as it would be deployed (lambda 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from wrinklefree.data.loader import collate
from wrinklefree.data.packing import TokenRows
from wrinklefree.models.surgery import (
    get_lambda,
    quant_config_of,
    quantized_once,
    set_lambda,
)
from wrinklefree.training.forward import decode, device_of, head_input
from wrinklefree.training.head_loss import head_losses


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Evaluation rows; without rows nothing is measured."""

    rows: TokenRows | None
    batch_size: int

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """`cross_entropy` in nats per label in eval mode and float32; while lambda is below 1 also
        `cross_entropy_deployed`, that of the same weights at lambda 1."""
        if self.rows is None:
            return {}
        values = {"cross_entropy": self._cross_entropy(model, self.rows)}
        if quant_config_of(model) is not None and (lam := get_lambda(model)) < 1.0:
            set_lambda(model, 1.0)
            values["cross_entropy_deployed"] = self._cross_entropy(model, self.rows)
            set_lambda(model, lam)
        return values

    @torch.no_grad()
    def _cross_entropy(self, model: PreTrainedModel, rows: TokenRows) -> float:
        was_training = model.training
        model.train(False)
        device = device_of(model)
        total = 0.0
        with quantized_once(model):
            for start in range(0, len(rows), self.batch_size):
                indices = tuple(range(start, min(start + self.batch_size, len(rows))))
                batch = collate(rows, indices).to(device)
                hidden_PD = decode(model, batch).last_BLD[batch.is_label_BL]
                targets_P = batch.targets_BL[batch.is_label_BL]
                total += float(head_losses(head_input(model, hidden_PD), targets_P)[0])
        model.train(was_training)
        return total / max(rows.num_labels, 1)
