"""Blend: the one lambda of a model, and how it multiplies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Blend:
    """How much of quantizers and SubLN norms is active: 0 is the float teacher, 1 what is deployed.

    One object is shared by all BitLinear and SubLN modules of a model, so that setting lambda is
    one assignment and `copy.deepcopy(model)` gets a lambda of its own. It is a plain float, not a
    buffer: it must not be in the state dict, move between devices or cost a device read per layer.
    int8_grad: at lambda 1 the layers pass gradients on from int8 codes (see ternary_product.py).
    """

    lam: float = 1.0
    int8_grad: bool = False
