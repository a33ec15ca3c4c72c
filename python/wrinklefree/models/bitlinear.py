"""BitLinear: a linear layer with ternary weights and int8 activations, blended in by lambda.

Shapes: x_BLK is [..., K], w_NK the float32 master weight [N, K], output [..., N].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

from wrinklefree import ops
from wrinklefree.models.blend import Blend
from wrinklefree.models.subln import SubLN
from wrinklefree.models.ternary_product import has_ternary_product, ternary_product

MIN_SCALE = 1e-5


class BitLinear(nn.Linear):
    """nn.Linear of quantized operands: y = Q_act(norm(x)) @ Q_ternary(w).T + bias.

    The stored weight is the float32 master; `ternary()` and `scale` are what is deployed. Both
    quantizers are straight-through: their gradient is that of the identity. lambda = 0 is exactly
    nn.Linear, lambda = 1 the deployed numbers, on a CPU from the deployed integer products.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        blend: Blend,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.blend = blend
        # A tuple of none or one. nn.Module registers only bare modules, so the norm keeps the one
        # name its owner gave it (HF: self_attn.attn_sub_norm), and deepcopy and pickle keep the
        # reference, which a hook's closure would not.
        self._input_norm: tuple[SubLN, ...] = ()
        self._held_NK: torch.Tensor | None = None
        self._held_packed: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def from_linear(cls, linear: nn.Linear, blend: Blend) -> BitLinear:
        """BitLinear that takes over the parameters of `linear`: same objects, nothing is copied."""
        has_bias = linear.bias is not None
        layer = cls(linear.in_features, linear.out_features, has_bias, blend=blend, device="meta")
        layer.weight = linear.weight
        if has_bias:
            layer.bias = linear.bias
        return layer.train(linear.training)

    @property
    def input_norm(self) -> SubLN | None:
        """Norm applied to the input before it is quantized; registered in its owner, not here."""
        return self._input_norm[0] if self._input_norm else None

    def use_input_norm(self, norm: SubLN) -> None:
        """Apply `norm` to the input; the caller registers it where its name belongs."""
        self._input_norm = (norm,)

    def forward(self, x_BLK: torch.Tensor) -> torch.Tensor:
        lam = self.blend.lam
        if lam == 1.0 and has_ternary_product(x_BLK, self.weight):
            return ternary_product(
                x_BLK,
                self.weight,
                self.bias,
                norm=self.input_norm,
                packed=self._held_packed,
                int8_grad=self.blend.int8_grad,
            )
        for norm in self._input_norm:
            x_BLK = norm(x_BLK)
        if lam == 0.0:
            return F.linear(x_BLK, self.weight, self.bias)
        w_NK = self._held_NK if self._held_NK is not None else self._quantized(lam)
        return F.linear(ops.fake_quant_act(x_BLK, lam), w_NK, self.bias)

    def _quantized(self, lam: float) -> torch.Tensor:
        return ops.fake_quant_ternary(self.weight, lam)

    @torch.no_grad()
    def hold_weight(self) -> None:
        """Quantize the weight now and no more, until `release_weight`. A divided weight (FSDP2) is
        whole in forward passes only, and quantized in each."""
        if isinstance(self.weight, DTensor):
            return
        lam = self.blend.lam
        if lam == 1.0 and has_ternary_product(self.weight, self.weight):
            self._held_packed = ops.ternary_pack(self.weight)
        elif lam > 0.0:
            self._held_NK = self._quantized(lam)

    def release_weight(self) -> None:
        """Quantize the weight in every forward pass again."""
        self._held_NK = self._held_packed = None

    @property
    def scale(self) -> float:
        """Ternary step s = max(mean |W|, 1e-5), summed in float64 and rounded to float32 once."""
        mean = self.weight.detach().abs().mean(dtype=torch.float64).to(torch.float32)
        return max(float(mean), MIN_SCALE)

    @torch.no_grad()
    def ternary(self) -> torch.Tensor:
        """Codes in {-1, 0, 1}, int8 [N, K]: the deployed weight is `scale * ternary()`."""
        inverse = 1.0 / torch.tensor(self.scale, dtype=torch.float32, device=self.weight.device)
        return torch.clamp(torch.round(self.weight.float() * inverse), -1, 1).to(torch.int8)
