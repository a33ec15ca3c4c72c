"""BitLinear as a few lines of eager torch, the way it is commonly published: the yardstick."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from wrinklefree import reference
from wrinklefree.models.bitlinear import BitLinear
from wrinklefree.models.surgery import bit_linears


class EagerBitLinear(nn.Linear):
    """y = Q_act(norm(x)) @ Q_ternary(w).T with detached straight-through estimators."""

    def __init__(self, layer: BitLinear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self._norm = (layer.input_norm,)  # in a tuple: registered in its owner, as for BitLinear

    def forward(self, x_BLK: torch.Tensor) -> torch.Tensor:
        for norm in self._norm:
            x_BLK = norm(x_BLK) if norm is not None else x_BLK
        x_BLK = x_BLK + (reference.fake_quant_act(x_BLK, 1.0) - x_BLK).detach()
        w_NK = self.weight + (reference.fake_quant_ternary(self.weight, 1.0) - self.weight).detach()
        return F.linear(x_BLK, w_NK, self.bias)


def use_eager_(model: nn.Module) -> None:
    """Replace every BitLinear of a quantized model; parameters are taken over."""
    layers = {id(layer) for layer in bit_linears(model)}
    names = [name for name, module in model.named_modules() if id(module) in layers]
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, BitLinear)
        model.set_submodule(name, EagerBitLinear(layer))
