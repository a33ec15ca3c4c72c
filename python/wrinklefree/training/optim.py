"""AdamW with the parameter groups of ternary training."""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.errors import UsageError

log = logging.getLogger(__name__)


def freeze(model: PreTrainedModel, parts: tuple[str, ...]) -> None:
    """Stop the gradient of the named parts: "embed" (a tied head with it), "norms" (all gains).

    Raises UsageError when nothing would be left to train.
    """
    embedding = model.get_input_embeddings().weight
    for name, parameter in model.named_parameters():
        is_frozen = ("embed" in parts and parameter is embedding) or (
            "norms" in parts and _is_gain(name, parameter)
        )
        parameter.requires_grad_(not is_frozen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("training.freeze leaves no parameter to train")


def _is_gain(name: str, parameter: nn.Parameter) -> bool:
    # Norm and SubLN gains are vectors called weight; biases are vectors too.
    return parameter.ndim == 1 and name.endswith("weight")


def build_optimizer(model: PreTrainedModel, config: GradientConfig) -> torch.optim.AdamW:
    """AdamW over the unfrozen parameters: matrices with decay, vectors without.

    Each group carries `lr_multiplier`; the schedule's rate is multiplied by it.
    """
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    gains = [p for n, p in trained if _is_gain(n, p)]
    biases = [p for n, p in trained if p.ndim == 1 and not _is_gain(n, p)]
    matrices = [p for _, p in trained if p.ndim > 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "lr_multiplier": 1.0},
        {"params": biases, "weight_decay": 0.0, "lr_multiplier": 1.0},
        {"params": gains, "weight_decay": 0.0, "lr_multiplier": config.gains_lr_multiplier},
    ]
    log.info(
        "training %.1fM parameters (%d gains with learning rate x %g)",
        sum(p.numel() for _, p in trained) / 1e6,
        sum(p.numel() for p in gains),
        config.gains_lr_multiplier,
    )
    # fused: one pass over memory for all of a parameter's state; the same formula.
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(0.9, config.beta2),
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of this step's rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]
