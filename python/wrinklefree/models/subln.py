"""SubLN: the RMS norm in front of o_proj and down_proj (arXiv 2510.13998), blended in by lambda.

Shapes: x_BLD is [..., D]; the gain `weight` is [D].
"""

from __future__ import annotations

import torch
from torch import nn

from wrinklefree import ops
from wrinklefree.models.blend import Blend


class SubLN(nn.Module):
    """y = (1 - lambda) * x + lambda * gain * x / rms(x), rms over the last dimension, in float32.

    A norm put into a pretrained model destroys it, because the size of every token is lost;
    blending it in lets training follow. lambda = 0 returns x itself, lambda = 1 is an RMS norm.
    """

    def __init__(
        self, dim: int, *, eps: float, blend: Blend, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=torch.float32))
        self.eps = eps
        self.blend = blend

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        lam = self.blend.lam
        if lam == 0.0:
            return x_BLD
        if lam == 1.0:
            return ops.rms_norm(x_BLD, self.weight, self.eps)
        x = x_BLD.float()
        return torch.lerp(x, ops.rms_norm(x, self.weight, self.eps), lam).to(x_BLD.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"
