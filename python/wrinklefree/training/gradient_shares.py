"""How much each loss term pulls: its gradient's norm as a share of the sum of all terms' norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn


def gradient_shares(
    terms: Mapping[str, torch.Tensor], parameters: Iterable[nn.Parameter]
) -> dict[str, float]:
    """`grad_share_<term>` in [0, 1], summing to 1 (all 0 where no term has a gradient).

    The terms' graph and the parameters' `grad` are left as they are. One backward pass per term;
    memory for one more gradient.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    norms: dict[str, float] = {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
        present = [gradient for gradient in gradients if gradient is not None]
        norms[name] = float(torch.nn.utils.get_total_norm(present))
    total = sum(norms.values()) or 1.0
    return {f"grad_share_{name}": norm / total for name, norm in norms.items()}
