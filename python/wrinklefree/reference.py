"""The meaning of every op in plain torch: the oracle of the tests. Numbers as in docs/ops.md.

Shapes: x [..., K] activations, w [N, K] weights, codes int8 [N, K].
"""

from __future__ import annotations

import torch

MIN_SCALE = 1e-5


def quantize_act_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a = max(absmax, 1e-5); q = rint(x * (127 / a)); scale = a / 127, per token (last dim)."""
    x = x.float()
    absmax = x.abs().amax(-1, keepdim=True).clamp_min(MIN_SCALE)
    # NOTE: torch computes `127.0 / absmax` as the reciprocal times 127, rounded twice: ties differ.
    inverse = torch.full_like(absmax, 127.0) / absmax
    q = torch.clamp(torch.round(x * inverse), -128, 127).to(torch.int8)
    return q, (absmax / 127.0).squeeze(-1)


def ternary_quantize(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """s = max(mean |w|, 1e-5), summed in float64; code = clamp(rint(w * (1 / s)), -1, 1)."""
    w = w.float()
    scale = w.abs().mean(dtype=torch.float64).to(torch.float32).clamp_min(MIN_SCALE)
    return torch.clamp(torch.round(w * (1.0 / scale)), -1, 1).to(torch.int8), scale


def ternary_matmul_int32(q: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Exact sums of q [M, K] times codes.T, int32 [M, N]."""
    return (q.to(torch.int64) @ codes.to(torch.int64).T).to(torch.int32)


def ternary_linear(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """y = float(sum of q * code) * (q_scale * scale) + bias."""
    q, q_scale = quantize_act_int8(x)
    rows = q.reshape(-1, q.shape[-1])
    acc = ternary_matmul_int32(rows, codes).reshape(*x.shape[:-1], codes.shape[0])
    y = acc.to(torch.float32) * (q_scale[..., None] * scale)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def ternary_weight_grad(
    grad: torch.Tensor, q: torch.Tensor, q_scale: torch.Tensor, k: int
) -> torch.Tensor:
    """grad.T @ (q_scale * q) of the first k columns, rounded to the type of grad; in float32."""
    x = (q[:, :k].float() * q_scale[:, None]).to(grad.dtype)
    return grad.flatten(0, -2).float().T @ x.float()


def round_ternary(w: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """scale * clamp(rint(w * (1 / scale)), -1, 1)."""
    codes = torch.clamp(torch.round(w.float() * (1.0 / scale)), -1, 1)
    return (codes * scale).to(dtype)


def fake_quant_ternary(w: torch.Tensor, lam: float) -> torch.Tensor:
    """w + lam * (Q(w) - w), in float32 and rounded once to the type of w."""
    codes, scale = ternary_quantize(w)
    quantized = codes.to(torch.float32) * scale
    return (quantized if lam == 1.0 else w.float() + lam * (quantized - w.float())).to(w.dtype)


def fake_quant_act(x: torch.Tensor, lam: float) -> torch.Tensor:
    """x + lam * (Q(x) - x), token by token."""
    q, scale = quantize_act_int8(x)
    quantized = q.to(torch.float32) * scale[..., None]
    return (quantized if lam == 1.0 else x.float() + lam * (quantized - x.float())).to(x.dtype)


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """gain * x / sqrt(mean(x^2) + eps), in float32 and rounded once to the type of x."""
    wide = x.float()
    return (gain * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps))).to(x.dtype)


def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, gain: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """With r = sqrt(mean(x^2) + eps) and g = gain * grad: (g - x mean(g x) / r^2) / r, and the sum
    of grad * x / r over tokens."""
    grad, wide = grad.float(), x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    scaled = gain * grad
    mean = (scaled * wide).mean(-1, keepdim=True) * inverse.square()
    gain_grad = (grad * wide * inverse).flatten(0, -2).sum(0)
    return ((scaled - wide * mean) * inverse).to(x.dtype), gain_grad


def gptq_round(
    w: torch.Tensor, spread: torch.Tensor, threshold: float, level: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """arXiv 2210.17323, algorithm 1, one column at a time: weights when rounded, and codes."""
    w, codes = w.float().clone(), torch.zeros(w.shape, dtype=torch.int8)
    for j in range(w.shape[1]):
        codes[:, j] = torch.where(w[:, j].abs() > threshold, w[:, j].sign(), 0.0).to(torch.int8)
        error = (w[:, j] - level * codes[:, j]) / spread[j, j]
        w[:, j + 1 :] -= error[:, None] * spread[j, j + 1 :]
    return w, codes
