"""One optimizer update from accumulated gradients: sum, clip, set rates, step, QK-clip."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.loader import Batch
from wrinklefree.training.clipping import Clipper, gradient_norm
from wrinklefree.training.distributed import World
from wrinklefree.training.optim import build_optimizers, set_rates
from wrinklefree.training.qk_clip import QKClip
from wrinklefree.training.schedule import (
    LearningRate,
    WeightDecay,
    learning_rate,
    weight_decay,
)


@dataclass(frozen=True, slots=True)
class Update:
    """Everything between the backward pass and the next step."""

    model: PreTrainedModel
    optimizers: Sequence[torch.optim.Optimizer]
    learning_rate: LearningRate
    weight_decay: WeightDecay
    clipper: Clipper
    qk_clip: QKClip | None
    world: World

    def watching(self, batch: Batch) -> contextlib.AbstractContextManager[None]:
        """The context of the student's forward pass."""
        return self.qk_clip.watching(batch) if self.qk_clip else contextlib.nullcontext()

    def sum_gradients(self) -> torch.Tensor:
        """Sum the gradients over the processes; returns their norm, the same in each of them."""
        self.world.sum_gradients(self.model.parameters())
        return gradient_norm(self.model.parameters(), self.world)

    def apply(self, step: int, norm: torch.Tensor) -> dict[str, float]:
        """Change the weights by gradients of this norm and drop them; returns what to log."""
        limit = self.clipper.clip(self.model.parameters(), norm)
        lr = self.learning_rate.at(step)
        set_rates(self.optimizers, lr, self.weight_decay.at(step))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        values = {"grad_norm": float(norm), "grad_limit": limit, "lr": lr}
        if self.qk_clip is not None:
            values["qk_logit_max"] = self.qk_clip.apply()
        return values

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the optimizers' tensors, as JSON values."""
        return self.clipper.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same configuration."""
        self.clipper.load_state_dict(state)


def build_update(
    model: PreTrainedModel, config: GradientConfig, total_steps: int, world: World
) -> Update:
    """The update of a run. Raises UsageError for settings that do not fit the model."""
    return Update(
        model=model,
        optimizers=build_optimizers(model, config),
        learning_rate=learning_rate(config, total_steps),
        weight_decay=weight_decay(config, total_steps),
        clipper=Clipper(config),
        qk_clip=QKClip(model, config.qk_clip, world) if config.qk_clip > 0 else None,
        world=world,
    )
