"""The torch custom ops: public wrapper, then fake and autograd under each.

Schemas are in csrc/ops/schema.cpp, meanings in reference.py. CPU tensors of any floating type and
any strides; sums are exact integers, so results do not depend on threads or instruction set.
Shapes: x [..., K] activations, w [N, K] weights, codes int8 [N, K].
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from wrinklefree import _native, reference

_native.require()
_ops: Any = torch.ops.wrinklefree

KernelLayout = Literal["t2", "t1", "lut"]
Layout = Literal[KernelLayout, "i2s", "tq1_0", "tq2_0", "q4_0", "hf"]


def quantize_act_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token absmax int8: codes int8 [..., K] and float32 scales [...]; x is about q * scale."""
    q, scale = _ops.quantize_act_int8(x)
    return q, scale


@torch.library.register_fake("wrinklefree::quantize_act_int8")
def _(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty(x.shape, dtype=torch.int8, device=x.device),
        torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device),
    )


def ternary_quantize(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Absmean ternary codes int8 [N, K] and the scale, float32 []."""
    codes, scale = _ops.ternary_quantize(w)
    return codes, scale


@torch.library.register_fake("wrinklefree::ternary_quantize")
def _(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if w.dim() != 2:
        raise ValueError(f"ternary_quantize: expected [N, K], got {list(w.shape)}")
    return (
        torch.empty(w.shape, dtype=torch.int8, device=w.device),
        torch.empty((), dtype=torch.float32, device=w.device),
    )


def pack_ternary(codes: torch.Tensor, scale: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Bytes (uint8, 1-D) of codes and scale in a layout of docs/formats.md.

    Raises RuntimeError for a code outside -1, 0, 1 or a shape that the layout cannot hold.
    """
    packed: torch.Tensor = _ops.pack_ternary(codes, scale, layout)
    return packed


def _size_bytes(layout: str, n: int, k: int) -> int:
    sizes = {
        "t2": -(-n // 16) * -(-k // 16) * 64,
        "t1": -(-n // 16) * -(-k // 20) * 64,
        "lut": -(-n // 32) * -(-k // 4) * 32,
        "i2s": n * k // 4 + 32,
        "tq1_0": n * (k // 256) * 54,
        "tq2_0": n * (k // 256) * 66,
        "q4_0": n * (k // 32) * 18,
        "hf": -(-n // 4) * k,
    }
    return sizes[layout]


@torch.library.register_fake("wrinklefree::pack_ternary")
def _(codes: torch.Tensor, scale: torch.Tensor, layout: str) -> torch.Tensor:
    size = _size_bytes(layout, codes.shape[0], codes.shape[1])
    return torch.empty((size,), dtype=torch.uint8, device=codes.device)


def unpack_ternary(
    packed: torch.Tensor, layout: Layout, n: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [n, k] and the stored scale, float32 []; t2, t1, lut and hf store none: 1.

    Raises RuntimeError for bytes that hold no ternary matrix with one scale.
    """
    codes, scale = _ops.unpack_ternary(packed, layout, n, k)
    return codes, scale


@torch.library.register_fake("wrinklefree::unpack_ternary")
def _(packed: torch.Tensor, layout: str, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty((n, k), dtype=torch.int8, device=packed.device),
        torch.empty((), dtype=torch.float32, device=packed.device),
    )


def ternary_linear(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    n: int,
    bias: torch.Tensor | None = None,
    *,
    layout: KernelLayout = "t2",
) -> torch.Tensor:
    """y [..., n] = Q(x) @ W.T + bias; `packed` is W [n, K] in `layout`. No gradient."""
    y: torch.Tensor = _ops.ternary_linear(x, packed, scale, n, bias, layout)
    return y


@torch.library.register_fake("wrinklefree::ternary_linear")
def _(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    n: int,
    bias: torch.Tensor | None = None,
    layout: str = "t2",
) -> torch.Tensor:
    return torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)


def ternary_matmul_int32(
    q: torch.Tensor, packed: torch.Tensor, n: int, *, layout: KernelLayout = "t2"
) -> torch.Tensor:
    """The exact integer sums of `ternary_linear`: int32 [M, n] from q int8 [M, K]."""
    acc: torch.Tensor = _ops.ternary_matmul_int32(q, packed, n, layout)
    return acc


@torch.library.register_fake("wrinklefree::ternary_matmul_int32")
def _(q: torch.Tensor, packed: torch.Tensor, n: int, layout: str = "t2") -> torch.Tensor:
    return torch.empty((q.shape[0], n), dtype=torch.int32, device=q.device)


def fake_quant_ternary(w: torch.Tensor, lam: float) -> torch.Tensor:
    """w + lam * (Q(w) - w), [N, K] in the type of w; the gradient passes straight through."""
    blended: torch.Tensor = _ops.fake_quant_ternary(w, lam)
    return blended


@torch.library.register_fake("wrinklefree::fake_quant_ternary")
def _(w: torch.Tensor, lam: float) -> torch.Tensor:
    return torch.empty(w.shape, dtype=w.dtype, device=w.device)


def fake_quant_act(x: torch.Tensor, lam: float) -> torch.Tensor:
    """x + lam * (Q(x) - x), token by token; the gradient passes straight through."""
    blended: torch.Tensor = _ops.fake_quant_act(x, lam)
    return blended


@torch.library.register_fake("wrinklefree::fake_quant_act")
def _(x: torch.Tensor, lam: float) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def ternary_pack(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The t2 bytes of Q(w), w [N, K], and the scale: what `ternary_linear` takes."""
    packed, scale = _ops.ternary_pack(w)
    return packed, scale


@torch.library.register_fake("wrinklefree::ternary_pack")
def _(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty((_size_bytes("t2", *w.shape),), dtype=torch.uint8, device=w.device),
        torch.empty((), dtype=torch.float32, device=w.device),
    )


def ternary_linear_codes(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    n: int,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`ternary_linear` of t2 bytes with y in float32 or bfloat16, and what backward needs of x.

    That is its codes int8 [M, K and padding] and their scales float32 [M]. With a gain [K] the
    layer's input is rms_norm(x, gain, eps), in float32, and the codes are its. No gradient.
    """
    y, q, q_scale = _ops.ternary_linear_codes(x, packed, scale, n, bias, dtype, gain, eps)
    return y, q, q_scale


@torch.library.register_fake("wrinklefree::ternary_linear_codes")
def _(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    n: int,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    gain: torch.Tensor | None = None,
    eps: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, k = x.numel() // x.shape[-1], x.shape[-1]
    stride = (k + 19) // 20 * 20  # act_stride in csrc/core/kernels.h
    return (
        torch.empty((*x.shape[:-1], n), dtype=dtype, device=x.device),
        torch.empty((rows, (stride + 63) // 64 * 64), dtype=torch.int8, device=x.device),
        torch.empty((rows,), dtype=torch.float32, device=x.device),
    )


def ternary_input_grad(
    grad: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    k: int,
    seed: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """grad [..., n] @ Q(W), [..., k] in float32 or bfloat16, for the t2 bytes of Q(W) [n, k].

    Each row of grad becomes int8 codes, rounded at random: the mean over seeds is the product.
    """
    product: torch.Tensor = _ops.ternary_input_grad(grad, packed, scale, k, seed, dtype)
    return product


@torch.library.register_fake("wrinklefree::ternary_input_grad")
def _(
    grad: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    k: int,
    seed: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    return torch.empty((*grad.shape[:-1], k), dtype=dtype, device=grad.device)


def ternary_weight_grad(
    grad: torch.Tensor, q: torch.Tensor, q_scale: torch.Tensor, k: int
) -> torch.Tensor:
    """grad.T @ (q_scale * q), float32 [n, k], for grad [..., n] and the first k columns of q.

    The operands are rounded to the type of grad, bfloat16 or float32, and summed in float32. A CPU
    without AVX512-BF16, or with AMX, multiplies with torch, which rounds bfloat16 sums to bfloat16.
    """
    product: torch.Tensor = _ops.ternary_weight_grad(grad, q, q_scale, k)
    return product


@torch.library.register_fake("wrinklefree::ternary_weight_grad")
def _(grad: torch.Tensor, q: torch.Tensor, q_scale: torch.Tensor, k: int) -> torch.Tensor:
    return torch.empty((grad.shape[-1], k), dtype=torch.float32, device=grad.device)


def round_ternary(w: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """scale * code of every weight, [N, K] in float32 or bfloat16, for a scale that is known."""
    rounded: torch.Tensor = _ops.round_ternary(w, scale, dtype)
    return rounded


@torch.library.register_fake("wrinklefree::round_ternary")
def _(w: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(w.shape, dtype=dtype, device=w.device)


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """gain * x / sqrt(mean(x^2) + eps) over the last dimension, computed in float32; [..., K]."""
    y: torch.Tensor = _ops.rms_norm(x, gain, eps)
    return y


@torch.library.register_fake("wrinklefree::rms_norm")
def _(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _keep_norm_inputs(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, gain, ctx.eps = inputs
    ctx.save_for_backward(x, gain)


def _norm_gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    x, gain = ctx.saved_tensors
    x_grad, gain_grad = rms_norm_backward(grad, x, gain, ctx.eps)
    return x_grad, gain_grad.to(gain.dtype), None


torch.library.register_autograd(
    "wrinklefree::rms_norm", _norm_gradients, setup_context=_keep_norm_inputs
)


def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, gain: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `rms_norm` for x, in its type, and for the gain, float32 [K]."""
    x_grad, gain_grad = _ops.rms_norm_backward(grad, x, gain, eps)
    return x_grad, gain_grad


@torch.library.register_fake("wrinklefree::rms_norm_backward")
def _(
    grad: torch.Tensor, x: torch.Tensor, gain: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
        torch.empty(gain.shape, dtype=torch.float32, device=x.device),
    )


torch.library.impl("wrinklefree::rms_norm", "CUDA", reference.rms_norm)
torch.library.impl("wrinklefree::rms_norm_backward", "CUDA", reference.rms_norm_backward)


def gptq_round(
    w: torch.Tensor, spread: torch.Tensor, threshold: float, level: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ternary codes int8 [N, K] of w by GPTQ, and w as it was when each column was rounded.

    A value v gets the code sign(v) * (|v| > threshold) and leaves the error v - level * code, which
    spread [K, K], the upper Cholesky factor of the inverse Hessian, hands on to later columns.
    """
    unrounded, codes = _ops.gptq_round(w, spread, threshold, level)
    return unrounded, codes


@torch.library.register_fake("wrinklefree::gptq_round")
def _(
    w: torch.Tensor, spread: torch.Tensor, threshold: float, level: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty(w.shape, dtype=torch.float32, device=w.device),
        torch.empty(w.shape, dtype=torch.int8, device=w.device),
    )


def _straight_through(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    return grad, None


for _meaning in (reference.fake_quant_ternary, reference.fake_quant_act):
    _name = f"wrinklefree::{_meaning.__name__}"
    torch.library.register_autograd(_name, _straight_through)
    torch.library.impl(_name, "CUDA", _meaning)
