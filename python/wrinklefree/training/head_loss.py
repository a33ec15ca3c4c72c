"""Cross-entropy and logit KL straight from hidden states; the logits never exist as a whole.

Plain losses keep the logits of all positions three times: 600 MB for 1024 positions of a 49k
vocabulary. Here a chunk of positions is taken through the head, its losses and its share of the
gradients, and forgotten (as in Liger Kernel, arXiv 2410.10989). So the gradients are made in the
forward pass, and no product is done twice.

Shapes: P selected positions, C positions of a chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from wrinklefree.data.encode import IGNORE

# Fewer would spend more time on adding up weight gradients than on the products.
CHUNK_ROWS = 256


class HeadInput(NamedTuple):
    """What logits are made of: hidden_PD @ weight_VD.T."""

    hidden_PD: torch.Tensor
    weight_VD: torch.Tensor


class Losses(NamedTuple):
    """Which losses, and what their sums over positions are multiplied by; 0 switches one off."""

    targets_P: torch.Tensor  # int64, IGNORE where there is no label
    teacher: HeadInput | None
    ce_scale: float
    kd_scale: float
    tau: float


class _Sums(NamedTuple):
    ce: torch.Tensor
    kd: torch.Tensor
    hidden_grad_PD: torch.Tensor | None
    weight_grad_VD: torch.Tensor | None


def head_losses(
    student: HeadInput,
    targets_P: torch.Tensor,
    *,
    ce_scale: float = 1.0,
    teacher: HeadInput | None = None,
    kd_scale: float = 0.0,
    tau: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and logit KL, float32 scalars with gradients for hidden states and weight.

    ce = ce_scale * sum of -log p(target), in nats, over the targets that are not IGNORE.
    kd = kd_scale * tau^2 * sum of KL(teacher || student) at temperature tau over all positions
    (arXiv 2510.13998 eq. 8-9; the factor tau^2 is the released code's); 0 without a teacher. Where
    one head has more rows, padding or tokens of its own, both distributions are over the others.
    Products are done in the autocast type, if there is one, everything else in float32.
    """
    device = student.hidden_PD.device.type
    dtype = student.hidden_PD.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if teacher is None:
        kd_scale = 0.0
    losses = Losses(targets_P, teacher, ce_scale, kd_scale, tau)
    with torch.autocast(device, enabled=False):
        if not torch.is_grad_enabled():
            sums = _over_chunks(student, losses, dtype, (False, False))
            return sums.ce, sums.kd
        ce, kd = _HeadLosses.apply(*student, losses, dtype)  # type: ignore[no-untyped-call]
    return ce, kd


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_PD: torch.Tensor,
        weight_VD: torch.Tensor,
        losses: Losses,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden_PD, weight_VD)
        ctx.losses, ctx.dtype = losses, dtype
        sums = _over_chunks(HeadInput(hidden_PD, weight_VD), losses, dtype, ctx.needs_input_grad)
        ctx.gradients = sums.hidden_grad_PD, sums.weight_grad_VD
        return sums.ce, sums.kd

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, ce_grad: torch.Tensor | None, kd_grad: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        losses: Losses = ctx.losses
        ce_factor = float(ce_grad) if ce_grad is not None and losses.ce_scale > 0 else 0.0
        kd_factor = float(kd_grad) if kd_grad is not None and losses.kd_scale > 0 else 0.0
        factors = [
            factor
            for factor, scale in ((ce_factor, losses.ce_scale), (kd_factor, losses.kd_scale))
            if scale > 0
        ]
        if ctx.gradients is not None and len(set(factors)) == 1:
            # Given away, not kept: a reference here would make autograd copy the weight gradient.
            gradients, ctx.gradients = ctx.gradients, None
            if factors[0] != 1.0:
                gradients = tuple(g * factors[0] if g is not None else None for g in gradients)
            return *gradients, None, None
        # A second backward pass, or the gradient of one of the losses alone.
        scaled = losses._replace(
            ce_scale=losses.ce_scale * ce_factor, kd_scale=losses.kd_scale * kd_factor
        )
        student = HeadInput(*ctx.saved_tensors)
        sums = _over_chunks(student, scaled, ctx.dtype, ctx.needs_input_grad)
        return sums.hidden_grad_PD, sums.weight_grad_VD, None, None


def _over_chunks(
    student: HeadInput, losses: Losses, dtype: torch.dtype, needs_grad: tuple[bool, ...]
) -> _Sums:
    hidden_PD, weight_VD = student.hidden_PD.to(dtype), student.weight_VD.to(dtype)
    teacher = losses.teacher if losses.kd_scale != 0 else None
    teacher_VD = teacher.weight_VD.to(dtype) if teacher is not None else None
    ce, kd = hidden_PD.new_zeros((2,), dtype=torch.float32)
    hidden_grad_PD = torch.zeros_like(student.hidden_PD) if needs_grad[0] else None
    weight_grad_VD = torch.zeros_like(student.weight_VD) if needs_grad[1] else None
    for begin in range(0, len(hidden_PD), CHUNK_ROWS):
        chunk = slice(begin, begin + CHUNK_ROWS)
        logits_CV = (hidden_PD[chunk] @ weight_VD.T).float()
        teacher_CV = None
        if teacher is not None and teacher_VD is not None:
            teacher_CV = (teacher.hidden_PD[chunk].to(dtype) @ teacher_VD.T).float()
        chunk_ce, chunk_kd, grad_CV = _chunk_losses(
            logits_CV, teacher_CV, losses._replace(targets_P=losses.targets_P[chunk])
        )
        ce += chunk_ce
        kd += chunk_kd
        if hidden_grad_PD is not None or weight_grad_VD is not None:
            grad_CV = grad_CV.to(dtype)
        if hidden_grad_PD is not None:
            hidden_grad_PD[chunk] = grad_CV @ weight_VD
        if weight_grad_VD is not None:
            weight_grad_VD += grad_CV.T @ hidden_PD[chunk]
    return _Sums(ce, kd, hidden_grad_PD, weight_grad_VD)


def _chunk_losses(
    logits_CV: torch.Tensor, teacher_CV: torch.Tensor | None, losses: Losses
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both losses of a chunk and the gradient of their sum for its logits; those of the teacher may
    be -inf."""
    ce, kd = logits_CV.new_zeros((2,))
    kd_grad_CV = None
    if teacher_CV is not None:
        shared = min(logits_CV.shape[1], teacher_CV.shape[1])
        log_student = F.log_softmax(logits_CV[:, :shared] / losses.tau, dim=-1)
        log_teacher = F.log_softmax(teacher_CV[:, :shared] / losses.tau, dim=-1)
        probability = log_teacher.exp()
        # NOTE: masked before the product: 0 * (-inf - x) would be NaN.
        difference = torch.where(probability > 0, log_teacher - log_student, 0.0)
        kd = torch.sum(probability * difference) * (losses.kd_scale * losses.tau**2)
        kd_grad_CV = log_student.exp_().sub_(probability).mul_(losses.kd_scale * losses.tau)
        if shared < logits_CV.shape[1]:
            kd_grad_CV = F.pad(kd_grad_CV, (0, logits_CV.shape[1] - shared))
    if losses.ce_scale == 0:
        return ce, kd, torch.zeros_like(logits_CV) if kd_grad_CV is None else kd_grad_CV

    log_p_CV = F.log_softmax(logits_CV, dim=-1)
    rows = (losses.targets_P != IGNORE).nonzero().squeeze(-1)
    picked = rows, losses.targets_P[rows]
    ce = -log_p_CV[picked].sum() * losses.ce_scale
    grad_CV = log_p_CV.exp_()
    grad_CV[picked] -= 1.0
    if len(rows) < len(grad_CV):
        grad_CV[losses.targets_P == IGNORE] = 0.0
    grad_CV *= losses.ce_scale
    return ce, kd, grad_CV if kd_grad_CV is None else grad_CV.add_(kd_grad_CV)
