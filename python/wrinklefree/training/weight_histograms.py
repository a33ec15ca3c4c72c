"""Where latent weights lie between their thresholds, and which codes they have, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from wrinklefree.models.bitlinear import BitLinear
from wrinklefree.models.decoder import decoder_layers

RANGE = 3.0  # in units of the scale; the few weights beyond are in no bin
NUM_BINS = 120


@dataclass(frozen=True, slots=True)
class Histograms:
    """Row l belongs to layer l; shares of its weights."""

    latent: npt.NDArray[np.float64]  # [layers, NUM_BINS], weights over the scale in -RANGE..RANGE
    codes: npt.NDArray[np.float64] | None  # [layers, 3], shares of -1, 0, 1; None for a float model


@torch.no_grad()
def weight_histograms(model: PreTrainedModel) -> Histograms:
    """Histograms over all projections of each layer, each relative to its own scale.

    The scale is mean |W|, whose half is where a ternary weight's code changes.
    """
    latent, codes = [], []
    for layer in decoder_layers(model):
        linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        counts = sum((_latent(linear) for linear in linears), start=torch.zeros(NUM_BINS))
        num_weights = sum(linear.weight.numel() for linear in linears)
        latent.append((counts / num_weights).double().numpy())
        ternary = [linear for linear in linears if isinstance(linear, BitLinear)]
        if ternary:
            numbers = sum((_codes(linear) for linear in ternary), start=torch.zeros(3))
            codes.append((numbers / numbers.sum()).double().numpy())
    return Histograms(np.stack(latent), np.stack(codes) if codes else None)


def _latent(linear: nn.Linear) -> torch.Tensor:
    weight = linear.weight.float()
    scale = linear.scale if isinstance(linear, BitLinear) else float(weight.abs().mean())
    return torch.histc(weight / scale, NUM_BINS, -RANGE, RANGE)


def _codes(linear: BitLinear) -> torch.Tensor:
    return torch.bincount(linear.ternary().flatten().int() + 1, minlength=3).float()
