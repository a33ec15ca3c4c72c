"""The linear layer at lambda 1, multiplied as it is served: integer sums of int8 codes.

Shapes: x_BLK is [..., K], w_NK the master weight, y [..., N]; M rows of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from wrinklefree import ops
from wrinklefree.models.subln import SubLN


def ternary_product(
    x_BLK: torch.Tensor,
    w_NK: torch.Tensor,
    bias_N: torch.Tensor | None,
    *,
    norm: SubLN | None = None,
    packed: tuple[torch.Tensor, torch.Tensor] | None = None,
    int8_grad: bool = False,
) -> torch.Tensor:
    """y = Q_act(norm(x)) @ Q_ternary(w).T + bias: the engine's integer sums, scaled once.

    In the autocast type or that of x. The backward pass is straight-through: both products are
    those of the quantized operands, in the type of y. Kept for it are the codes of x, one byte an
    element, and x itself where it is normed; those of w are made again. `packed` is
    ops.ternary_pack(w_NK), if there already.
    int8_grad: the gradient of x comes from int8 codes of y's, rounded at random (seeded by torch's
    generator): unbiased, noisy, and as fast as the forward product.
    """
    dtype = x_BLK.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    gain_K, eps = (norm.weight, norm.eps) if norm is not None else (None, 0.0)
    y: torch.Tensor = _TernaryProduct.apply(  # type: ignore[no-untyped-call]
        x_BLK, w_NK, bias_N, gain_K, eps, packed, dtype, int8_grad
    )
    return y


def has_ternary_product(x_BLK: torch.Tensor, w_NK: torch.Tensor) -> bool:
    """Whether `ternary_product` takes these: on a CPU, float32 or bfloat16."""
    types = (torch.float32, torch.bfloat16)
    return x_BLK.device.type == "cpu" and x_BLK.dtype in types and w_NK.dtype in types


class _TernaryProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BLK: torch.Tensor,
        w_NK: torch.Tensor,
        bias_N: torch.Tensor | None,
        gain_K: torch.Tensor | None,
        eps: float,
        packed: tuple[torch.Tensor, torch.Tensor] | None,
        dtype: torch.dtype,
        int8_grad: bool,
    ) -> torch.Tensor:
        bytes_t2, scale = packed if packed is not None else ops.ternary_pack(w_NK)
        y, q_MK, q_scale_M = ops.ternary_linear_codes(
            x_BLK, bytes_t2, scale, w_NK.shape[0], bias_N, dtype, gain_K, eps
        )
        normed_x = x_BLK if gain_K is not None else None
        kept_bytes = bytes_t2 if int8_grad else None
        ctx.save_for_backward(w_NK, scale, q_MK, q_scale_M, kept_bytes, normed_x, gain_K)
        ctx.x_shape, ctx.x_dtype, ctx.eps = x_BLK.shape, x_BLK.dtype, eps
        ctx.bias_dtype = bias_N.dtype if bias_N is not None else None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        w_NK, scale, q_MK, q_scale_M, bytes_t2, normed_x, gain_K = ctx.saved_tensors
        num_outputs, num_inputs = w_NK.shape
        grad_MN = grad.reshape(-1, num_outputs)
        grad_x = grad_w = grad_bias = grad_gain = None
        needs_x = ctx.needs_input_grad[0] or ctx.needs_input_grad[3]
        if needs_x and bytes_t2 is not None:
            seed = int(torch.randint(2**31, ()))
            dtype = ctx.x_dtype if gain_K is None else grad.dtype
            grad_x = ops.ternary_input_grad(grad, bytes_t2, scale, num_inputs, seed, dtype)
        elif needs_x:
            quantized_NK = ops.round_ternary(w_NK, scale, grad.dtype)
            grad_x = (grad_MN @ quantized_NK).reshape(ctx.x_shape)
        if grad_x is not None and gain_K is not None:
            grad_x, grad_gain = ops.rms_norm_backward(grad_x, normed_x, gain_K, ctx.eps)
        elif grad_x is not None:
            grad_x = grad_x.to(ctx.x_dtype)
        if ctx.needs_input_grad[1]:
            grad_w = ops.ternary_weight_grad(grad, q_MK, q_scale_M, num_inputs).to(w_NK.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_MN.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return grad_x, grad_w, grad_bias, grad_gain, None, None, None, None
