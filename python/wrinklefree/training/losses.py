"""Losses on states inside the model: attention relation, hidden states (head_loss.py has the rest).

Every loss is `sum over this batch / count over the whole optimizer step`: the caller counts the
valid positions of all accumulated batches first, so that neither padding nor the way a step is
cut into batches changes a loss or a gradient.

Shapes: P selected positions, B rows, L tokens, H heads of the model, N head width,
A split heads, W = H * N state width, D hidden width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from wrinklefree.errors import UsageError

MIN_SPLIT_WIDTH = 4
# Added under the root when states are normalised: bounds the gradient of an all-zero state.
NORM_EPS = 1e-8


def allowed_split_heads(*widths: int) -> list[int]:
    """Numbers of split heads that divide all state widths with at least 4 dimensions each."""
    common = math.gcd(*widths)
    return [
        n for n in range(1, common + 1) if common % n == 0 and min(widths) // n >= MIN_SPLIT_WIDTH
    ]


def check_split_heads(split_heads: int, *widths: int) -> None:
    """Raises UsageError, naming the allowed values, unless `split_heads` fits Q, K and V."""
    allowed = allowed_split_heads(*widths)
    if split_heads not in allowed:
        raise UsageError(
            f"training.split_heads={split_heads} does not divide the state widths "
            f"{', '.join(map(str, sorted(set(widths))))} with at least {MIN_SPLIT_WIDTH} "
            f"dimensions each; allowed are {', '.join(map(str, allowed))}"
        )


def attention_relation(
    student: tuple[torch.Tensor, ...],
    teacher: tuple[torch.Tensor, ...],
    documents_BL: torch.Tensor,
    *,
    split_heads: int,
    normalisation: str,
    num_layers: int,
    count: int,
) -> torch.Tensor:
    """MiniLM-style relation loss of one layer: its share of L_AD (arXiv 2510.13998, algorithm 1).

    student, teacher: Q, K, V of the layer after RoPE, each [B, H, L, N] (K and V with their own H).
    For each: heads merged and split anew into A, L2-normalised, R = softmax(X X^T) over the tokens
    of the same document (bidirectional), KL(R_teacher || R_student) summed over a row. Result:
    sum over Q, K, V and rows / (count * A) / num_layers, where `count` is the number of tokens in
    the step ("mean": over valid rows and heads); "bitdistill" divides by A once more, as published.
    """
    is_token_BL = documents_BL >= 0
    allowed_BLL = documents_BL[:, :, None] == documents_BL[:, None, :]
    total = documents_BL.new_zeros((), dtype=torch.float32)
    for student_state, teacher_state in zip(student, teacher, strict=True):
        log_student = _log_relation(student_state, split_heads, allowed_BLL)
        log_teacher = _log_relation(teacher_state, split_heads, allowed_BLL)
        # Disallowed entries are finite in both (see _log_relation) and have probability 0.
        rows_BAL = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
        total = total + (rows_BAL * is_token_BL[:, None, :]).sum()
    extra = split_heads if normalisation == "bitdistill" else 1
    return total / (count * split_heads * num_layers * extra)


def _log_relation(
    state_BHLN: torch.Tensor, split_heads: int, allowed_BLL: torch.Tensor
) -> torch.Tensor:
    """log R, float32 [B, A, L, L]. Masked entries are about -1e4: exp gives exactly 0, no NaN."""
    batch, heads, length, width = state_BHLN.shape
    merged_BLW = state_BHLN.float().transpose(1, 2).reshape(batch, length, heads * width)
    split = merged_BLW.view(batch, length, split_heads, heads * width // split_heads)
    x = split.transpose(1, 2)
    x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPS)
    # Autocast would take this product to bfloat16: cosines of near tokens would be equal.
    with torch.autocast(x.device.type, enabled=False):
        cosines_BALL = x @ x.transpose(-1, -2)
    # Padding positions share document -1, so no row is empty; their rows are dropped by the caller.
    return F.log_softmax(cosines_BALL.masked_fill(~allowed_BLL[:, None], -1e4), dim=-1)


def hidden_state_distance(
    student_PD: torch.Tensor, teacher_PD: torch.Tensor, *, count: int
) -> torch.Tensor:
    """Sum of ||s/|s| - t/|t| ||^2 = 2 (1 - cos), divided by `count` tokens (arXiv 2402.11295).

    Normalised, because plain MSE is dominated by the few outlier channels of a trained model.
    """
    student = _unit(student_PD.float())
    return (student - _unit(teacher_PD.float())).square().sum() / count


def _unit(x_PD: torch.Tensor) -> torch.Tensor:
    return x_PD * torch.rsqrt(x_PD.square().sum(-1, keepdim=True) + NORM_EPS)


def layer_weights(num_layers: int, weighting: str) -> list[float]:
    """Weights with mean 1 of the outputs of layers 1..num_layers; "late" is linear in depth."""
    if weighting == "uniform":
        return [1.0] * num_layers
    mean_depth = (num_layers + 1) / 2
    return [depth / mean_depth for depth in range(1, num_layers + 1)]
