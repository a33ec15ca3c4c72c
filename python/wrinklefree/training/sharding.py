"""FSDP2: parameters, gradients and moments divided among the processes, layer by layer.

A layer's parameters are whole only while its forward or backward pass runs, so absmean scales and
codes are those of the whole tensor, the same bits as in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from wrinklefree.models.decoder import decoder_layers

T = TypeVar("T")


class Apply(Protocol):
    """Calls a function with the model, where its parameters can be used."""

    def __call__(self, function: Callable[[PreTrainedModel], T], /) -> T: ...


class _Whole(nn.Module):
    """A function of the model as a forward pass, which FSDP2 gathers parameters for."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[PreTrainedModel], T]) -> T:
        return function(self.model)


def apply_to(model: PreTrainedModel) -> Apply:
    """For a model that is not divided."""
    return lambda function: function(model)


def shard(model: PreTrainedModel) -> Apply:
    """Divide the model among all processes, in place; afterwards its parameters are DTensors.

    What the function given to the result computes with gradients needs one backward pass. All
    processes must call it together.
    """
    for layer in decoder_layers(model):
        fully_shard(layer)
    whole = _Whole(model)
    root = fully_shard(whole)  # the same object
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by the counts of all processes already.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

    def apply(function: Callable[[PreTrainedModel], T]) -> T:
        result: T = whole(function)
        if not _awaits_backward(result):
            root.reshard()  # otherwise the backward pass does
        return result

    return apply


def _awaits_backward(result: object) -> bool:
    values = result.values() if isinstance(result, dict) else ()
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that may be divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
