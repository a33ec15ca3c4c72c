"""AdamW, or Muon for the matrices of the body, with the parameter groups of ternary training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.errors import UsageError
from wrinklefree.models.decoder import decoder_layers

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


def build_optimizers(
    model: PreTrainedModel, config: GradientConfig
) -> tuple[torch.optim.Optimizer, ...]:
    """Optimizers over the unfrozen parameters: matrices with weight decay, vectors without.

    "muon": torch.optim.Muon for the matrices inside decoder layers, with the update scaled to the
    RMS of an AdamW update (arXiv 2502.16982), so that one learning rate serves both; AdamW for
    embeddings, head, gains and biases. Each group carries `lr_multiplier` and `decays`, which
    `set_rates` reads.
    """
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    gains = [p for n, p in trained if _is_gain(n, p)]
    biases = [p for n, p in trained if p.ndim == 1 and not _is_gain(n, p)]
    matrices = [p for _, p in trained if p.ndim > 1]
    body = set(decoder_layers(model).parameters()) if config.optimizer == "muon" else set()
    log.info(
        "training %.1fM parameters (%d gains with learning rate x %g)",
        sum(p.numel() for _, p in trained) / 1e6,
        sum(p.numel() for p in gains),
        config.gains_lr_multiplier,
    )
    optimizers: list[torch.optim.Optimizer] = []
    orthogonal = _groups(([p for p in matrices if p in body], 1.0, True))
    if orthogonal:
        optimizers.append(
            torch.optim.Muon(
                orthogonal,
                lr=config.lr,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    others = _groups(
        ([p for p in matrices if p not in body], 1.0, True),
        (biases, 1.0, False),
        (gains, config.gains_lr_multiplier, False),
    )
    if others:
        # fused: one pass over memory for all of a parameter's state; the same formula.
        optimizers.append(
            torch.optim.AdamW(others, lr=config.lr, betas=(0.9, config.beta2), fused=True)
        )
    return tuple(optimizers)


def _groups(*groups: tuple[list[nn.Parameter], float, bool]) -> list[dict[str, Any]]:
    """Parameter groups that are not empty: parameters, factor on the rate, whether they decay."""
    return [
        {"params": params, "lr_multiplier": multiplier, "decays": decays}
        for params, multiplier, decays in groups
        if params
    ]


def set_rates(optimizers: Sequence[torch.optim.Optimizer], lr: float, weight_decay: float) -> None:
    """Give every group its share of this step's learning rate and weight decay."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_multiplier"]
            group["weight_decay"] = weight_decay if group["decays"] else 0.0
