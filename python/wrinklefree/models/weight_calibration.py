"""calibrate_weights_: master weights whose ternary codes keep what the float model computes.

Rounding a pretrained weight to {-s, 0, s} leaves noise. Here every projection is solved, layer
after layer, for the inputs it really gets in the ternary model: least squares towards the output
of the float model, then GPTQ (arXiv 2210.17323), which rounds column after column and lets the
later columns make up for the error of the earlier ones. No gradient, one pass over little text.

Legend: B rows, L tokens of a row, D hidden width, T valid tokens, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from wrinklefree import ops
from wrinklefree.errors import UsageError
from wrinklefree.models.bitlinear import MIN_SCALE, BitLinear
from wrinklefree.models.calibration import CalibrationRows, least_squares_gain
from wrinklefree.models.decoder import decoder_layers
from wrinklefree.models.surgery import get_lambda

# Shares of the mean diagonal of the inputs' Gram matrix that are added to it, for least squares
# (the pull towards the given weight, stronger where the residual stream is the goal) and for GPTQ.
# Few tokens are seen, so all three are far larger than with the usual hundreds of thousands.
RIDGE, STREAM_RIDGE, GPTQ_DAMPING = 0.1, 0.5, 0.5
# Share of the error in the residual stream that o_proj and down_proj are asked to correct.
STREAM_SHARE = 0.6
# The projections that write into the residual stream, and the norm that reads it between them.
ATTENTION_OUT, MLP_NORM, MLP_OUT = "self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj"


@torch.no_grad()
def calibrate_weights_(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    rows: CalibrationRows,
    *,
    progress: Callable[[int], None] = lambda layers: None,
) -> dict[str, float]:
    """Solve master weights and SubLN gains of a model at lambda 1 for what `teacher` computes.

    Every projection is to give the teacher's output; o_proj and down_proj, which write into the
    residual stream, also a share of what is missing there to the teacher's stream.
    Returns the relative squared error of every projection. `progress` gets the layers done.
    Raises UsageError when lambda is not 1, the models differ in depth, or no token is valid.
    """
    if get_lambda(model) != 1.0:
        raise UsageError("weights are calibrated at lambda 1")
    layers, teacher_layers = decoder_layers(model), decoder_layers(teacher)
    if len(layers) != len(teacher_layers):
        raise UsageError(f"the teacher has {len(teacher_layers)} layers, the model {len(layers)}")
    is_token_BL = rows.is_token_BL
    if not is_token_BL.any():
        raise UsageError("calibration needs at least one token")
    model_was_training, teacher_was_training = model.training, teacher.training
    model.train(False)
    teacher.train(False)
    x_BLD = model.get_input_embeddings()(rows.tokens_BL)
    goal_BLD = teacher.get_input_embeddings()(rows.tokens_BL)
    errors: dict[str, float] = {}
    for index, layer in enumerate(layers):
        with _recorded(teacher_layers[index], is_token_BL) as goal:
            goal_BLD = rows.run_layer(teacher, index, goal_BLD)
        goal.stream[MLP_OUT] = goal_BLD[is_token_BL]
        solver = _Solver(goal, is_token_BL, before_TD=x_BLD[is_token_BL])
        with solver.attached(layer):
            x_BLD = rows.run_layer(model, index, x_BLD)
        errors |= {f"layers.{index}.{name}": error for name, error in solver.errors.items()}
        progress(index + 1)
    model.train(model_was_training)
    teacher.train(teacher_was_training)
    return errors


@dataclass(frozen=True)
class _Goal:
    """What one layer of the teacher computed, keyed by the name of the projection."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)  # [T, K]
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)  # [T, N]
    stream: dict[str, torch.Tensor] = field(default_factory=dict)  # [T, D] after the projection


@contextmanager
def _recorded(layer: nn.Module, is_token_BL: torch.Tensor) -> Iterator[_Goal]:
    goal = _Goal()

    def record(name: str, x_BLK: torch.Tensor, y_BLN: torch.Tensor) -> None:
        if name == MLP_NORM:
            goal.stream[ATTENTION_OUT] = x_BLK[is_token_BL]
        else:
            goal.inputs[name], goal.outputs[name] = x_BLK[is_token_BL], y_BLN[is_token_BL]

    handles = [
        module.register_forward_hook(lambda _, x, y, name=name: record(name, x[0], y))
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) or name == MLP_NORM
    ]
    try:
        yield goal
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Solver:
    """Solves each projection of a layer at the moment the layer is about to use it."""

    goal: _Goal
    is_token_BL: torch.Tensor
    before_TD: torch.Tensor  # the model's own residual stream before the coming projection
    errors: dict[str, float] = field(default_factory=dict)
    inputs: _Inputs | None = None
    last_BLK: torch.Tensor | None = None  # what `inputs` was made from

    @contextmanager
    def attached(self, layer: nn.Module) -> Iterator[None]:
        handles = [layer.get_submodule(MLP_NORM).register_forward_pre_hook(self._keep_stream)]
        for name, module in layer.named_modules():
            if isinstance(module, BitLinear):
                handles.append(
                    module.register_forward_pre_hook(
                        lambda linear, x, name=name: self._solve(name, linear, x[0])
                    )
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep_stream(self, _: nn.Module, x: tuple[torch.Tensor]) -> None:
        self.before_TD = x[0][self.is_token_BL]

    def _solve(self, name: str, linear: BitLinear, x_BLK: torch.Tensor) -> None:
        if linear.input_norm is not None:
            norm, x_TK = linear.input_norm, x_BLK[self.is_token_BL]
            y_TK = x_TK * (x_TK.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
            norm.weight.copy_(least_squares_gain(self.goal.inputs[name], y_TK))
            self.inputs = _Inputs.of(norm.weight * y_TK)
        elif x_BLK is not self.last_BLK:  # q, k and v share their input, gate and up as well
            self.inputs = _Inputs.of(x_BLK[self.is_token_BL])
        self.last_BLK = x_BLK
        assert self.inputs is not None
        goal_TN, ridge = self.goal.outputs[name], RIDGE
        if name in self.goal.stream:
            missing_TN = self.goal.stream[name] - self.before_TD - goal_TN
            goal_TN, ridge = goal_TN + STREAM_SHARE * missing_TN, STREAM_RIDGE
        if linear.bias is not None:
            goal_TN = goal_TN - linear.bias
        self.errors[name] = _solve_weight(linear.weight, self.inputs, goal_TN, ridge)


@dataclass(frozen=True)
class _Inputs:
    """Inputs of a projection as it sees them, and what solving for them needs."""

    x_TK: torch.Tensor
    gram_KK: torch.Tensor  # X^T X
    order_K: torch.Tensor  # columns by falling size: GPTQ rounds the big ones first
    spread_KK: torch.Tensor  # upper S with S^T S = (gram + damping)^-1, in that order

    @classmethod
    def of(cls, x_TK: torch.Tensor) -> _Inputs:
        x_TK = ops.fake_quant_act(x_TK, 1.0)
        gram_KK = x_TK.T @ x_TK
        damped_KK = _with_diagonal(gram_KK, GPTQ_DAMPING)
        order_K = gram_KK.diagonal().argsort(descending=True)
        # U upper with U U^T = the damped matrix, from the Cholesky factor in reverse order. Its
        # inverse is S, and is cheaper and more exact than factoring the inverse.
        reverse_K = order_K.flip(0)
        upper_KK = torch.linalg.cholesky(damped_KK[reverse_K][:, reverse_K]).flip(0, 1)
        identity_KK = torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
        spread_KK = torch.linalg.solve_triangular(upper_KK, identity_KK, upper=True)
        return cls(x_TK, gram_KK, order_K, spread_KK)


def _with_diagonal(gram_KK: torch.Tensor, share: float) -> torch.Tensor:
    """`gram_KK` with a share of its mean diagonal added to the diagonal, so that it is definite."""
    diagonal_K = gram_KK.diagonal()
    added = share * diagonal_K.mean().clamp_min(1e-12)
    return gram_KK + torch.diag(added.expand_as(diagonal_K))


def _solve_weight(
    w_NK: torch.Tensor, inputs: _Inputs, goal_TN: torch.Tensor, ridge: float
) -> float:
    """Overwrite the master w_NK so that |x Q(w)^T - goal|^2 is small; returns it over |goal|^2."""
    cross_NK = goal_TN.T @ inputs.x_TK
    residual_NK = cross_NK - w_NK @ inputs.gram_KK
    factor_KK = torch.linalg.cholesky(_with_diagonal(inputs.gram_KK, ridge))
    best_NK = w_NK + torch.cholesky_solve(residual_NK.T, factor_KK).T
    threshold, level = _two_levels(best_NK)
    rounded = ops.gptq_round(best_NK[:, inputs.order_K], inputs.spread_KK, threshold, level)
    restore_K = inputs.order_K.argsort()
    unrounded_NK, codes_NK = (tensor[:, restore_K] for tensor in rounded)
    codes = codes_NK.float()
    fitted = float((codes * cross_NK).sum())
    energy = float(((codes @ inputs.gram_KK) * codes).sum())
    if energy == 0.0:  # no code, or no input: nothing can be fitted
        w_NK.zero_()
        return 1.0
    scale = fitted / energy
    w_NK.copy_(_masters(unrounded_NK, codes, threshold, max(scale, MIN_SCALE)))
    return 1.0 - scale * fitted / max(float(goal_TN.square().sum()), fitted * scale)


def _two_levels(w_NK: torch.Tensor) -> tuple[float, float]:
    """Threshold t and level s for which s * sign(w) * (|w| > t) is nearest to w (Lloyd's rule)."""
    size_NK = w_NK.abs()
    threshold = 0.77 * float(size_NK.mean())  # the answer for normally distributed weights
    level = 2 * threshold
    for _ in range(3):
        is_big_NK = size_NK > threshold
        level = float((size_NK * is_big_NK).sum() / is_big_NK.sum().clamp_min(1))
        threshold = level / 2
    return threshold, level


def _masters(
    w_NK: torch.Tensor, codes_NK: torch.Tensor, threshold: float, scale: float
) -> torch.Tensor:
    """Weights near `w_NK` in shape whose absmean quantizer gives exactly these codes and scale.

    Absmean rounds at half the mean size. So sizes up to the threshold are mapped to [0, scale / 2)
    and the excess of the others is stretched until the mean size is the scale.
    """
    size_NK = w_NK.abs()
    is_zero_NK = codes_NK == 0
    inner = torch.where(is_zero_NK, size_NK * (0.499 * scale / threshold), 0.0)
    excess = torch.where(is_zero_NK, 0.0, (size_NK - threshold).clamp_min(1e-3 * threshold))
    num_nonzero = float((~is_zero_NK).sum())
    missing = scale * w_NK.numel() - float(inner.sum()) - 0.5 * scale * num_nonzero
    stretch = missing / float(excess.sum())
    return torch.where(is_zero_NK, inner * w_NK.sign(), codes_NK * (0.5 * scale + stretch * excess))
