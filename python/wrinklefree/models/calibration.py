"""calibrate_subln_: gains with which freshly inserted SubLN norms disturb the model least.

Legend: B rows, L tokens of a row, D hidden width, T valid tokens of all batches, K width of a norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from wrinklefree.errors import UsageError, nearest
from wrinklefree.models.blend import Blend
from wrinklefree.models.decoder import decoder_layers, run_layer
from wrinklefree.models.subln import SubLN
from wrinklefree.models.surgery import get_lambda, set_lambda

CalibrationMethod = Literal["least_squares", "median_rms", "mean_rms", "unit"]

# Pull of least squares towards the median, in tokens of unit variance per real token. Without it,
# channels that are nearly silent follow a few outlier tokens: measured in docs/models.md.
RIDGE = 1.0


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Token ids, and what tells padding and documents apart."""

    tokens_BL: torch.Tensor
    is_token_BL: torch.Tensor  # bool, False for padding
    # Both as in run_layer, for rows with several documents: none may attend to another.
    position_ids: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None

    def to(self, device: torch.device) -> CalibrationRows:
        """The same rows on a device."""
        apart = (self.position_ids, self.attention_mask)
        return CalibrationRows(
            self.tokens_BL.to(device),
            self.is_token_BL.to(device),
            *(None if tensor is None else tensor.to(device) for tensor in apart),
        )

    def run_layer(self, model: PreTrainedModel, index: int, x_BLD: torch.Tensor) -> torch.Tensor:
        """Output [B, L, D] of transformer block `index`, where the rows' states are x_BLD."""
        mask = self.is_token_BL if self.attention_mask is None else self.attention_mask
        return run_layer(model, index, x_BLD, position_ids=self.position_ids, attention_mask=mask)


@torch.no_grad()
def calibrate_subln_(
    model: PreTrainedModel,
    batches: Iterable[torch.Tensor | CalibrationRows],
    *,
    method: CalibrationMethod = "least_squares",
) -> dict[str, float]:
    """Set the gain of every SubLN from calibration text; returns each norm's relative error.

    A batch that is a tensor is token ids [B, L], no padding, one document a row.
    x is a norm's input in the float model, m the median of rms(x) over all tokens:
      unit: 1.  mean_rms: the mean of rms(x).  median_rms: m.
      least_squares: layer after layer, with y the normed input of the model whose earlier norms
        are calibrated and active already, g_c = (sum_t x_tc y_tc + T m) / (sum_t y_tc^2 + T), the
        minimum over g of |x_c - g y_c|^2 + T (g - m)^2. It costs four forward passes, not one.
    Quantizers are off while calibrating; lambda is afterwards what it was. The result maps the name
    of each norm to |x - g y|^2 / |x|^2.
    Raises UsageError for an unknown method, a model without SubLN, or no valid token.
    """
    methods = get_args(CalibrationMethod)
    if method not in methods:
        hint = nearest(str(method), methods)
        raise UsageError(f"calibration {method!r} is not one of {', '.join(methods)}{hint}")
    names = {module: name for name, module in model.named_modules() if isinstance(module, SubLN)}
    if not names:
        raise UsageError("the model has no SubLN norms to calibrate")
    texts = [_embed(model, batch) for batch in batches]
    if not any(text.rows.is_token_BL.any() for text in texts):
        raise UsageError("calibration needs at least one token")

    errors: dict[str, float] = {}
    with _norms_apart(model, list(names)) as blend:
        students = texts
        for index, layer in enumerate(decoder_layers(model)):
            norms = [module for module in layer.modules() if isinstance(module, SubLN)]
            blend.lam = 0.0
            texts, wanted_TK = _run(model, index, texts, norms)
            blend.lam = 1.0
            for norm in norms:
                x_TK = seen_TK = wanted_TK[norm]
                if method == "least_squares":
                    seen_TK = _run(model, index, students, [norm])[1][norm]
                y_TK = seen_TK * (seen_TK.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
                norm.weight.copy_(_gain(method, x_TK, y_TK))
                errors[names[norm]] = _relative_error(x_TK, norm.weight * y_TK)
            if method == "least_squares":
                students, _ = _run(model, index, students, [])
    return errors


def _gain(method: CalibrationMethod, x_TK: torch.Tensor, y_TK: torch.Tensor) -> torch.Tensor:
    """Gain [K] or a scalar."""
    if method == "unit":
        return torch.ones(())
    if method == "least_squares":
        return least_squares_gain(x_TK, y_TK)
    rms_T = x_TK.double().square().mean(-1).sqrt()
    return rms_T.mean() if method == "mean_rms" else rms_T.median()


def least_squares_gain(x_TK: torch.Tensor, y_TK: torch.Tensor) -> torch.Tensor:
    """Gain [K] with which the normed input y is nearest to x; see `calibrate_subln_`."""
    median = x_TK.double().square().mean(-1).sqrt().median()
    ridge = RIDGE * len(x_TK)
    xy_K = (x_TK * y_TK).sum(0, dtype=torch.float64)
    yy_K = y_TK.square().sum(0, dtype=torch.float64)
    return (xy_K + ridge * median) / (yy_K + ridge)


def _relative_error(x: torch.Tensor, approximation: torch.Tensor) -> float:
    return float((x - approximation).square().sum() / x.square().sum())


@dataclass(frozen=True)
class _Text:
    """Hidden states of one batch on their way through the layers."""

    x_BLD: torch.Tensor
    rows: CalibrationRows


def _embed(model: PreTrainedModel, batch: torch.Tensor | CalibrationRows) -> _Text:
    if isinstance(batch, torch.Tensor):
        batch = CalibrationRows(batch, torch.ones_like(batch, dtype=torch.bool))
    rows = batch.to(model.device)
    return _Text(model.get_input_embeddings()(rows.tokens_BL), rows)


def _run(
    model: PreTrainedModel, index: int, texts: Sequence[_Text], norms: Sequence[SubLN]
) -> tuple[list[_Text], Mapping[SubLN, torch.Tensor]]:
    """Texts after layer `index`, and what each of the norms got as input [T, K] in float32."""
    seen: dict[SubLN, list[torch.Tensor]] = {norm: [] for norm in norms}
    outputs = []
    for text in texts:
        handles = [
            norm.register_forward_pre_hook(
                lambda module, inputs, mask=text.rows.is_token_BL: seen[module].append(
                    inputs[0][mask].float()
                )
            )
            for norm in norms
        ]
        try:
            y_BLD = text.rows.run_layer(model, index, text.x_BLD)
        finally:
            for handle in handles:
                handle.remove()
        outputs.append(_Text(y_BLD, text.rows))
    return outputs, {norm: torch.cat(inputs) for norm, inputs in seen.items()}


@contextmanager
def _norms_apart(model: PreTrainedModel, norms: Sequence[SubLN]) -> Iterator[Blend]:
    """The blend of the norms alone, with the quantizers off; undone at the end."""
    lam, shared, apart = get_lambda(model), norms[0].blend, Blend(0.0)
    set_lambda(model, 0.0)
    for norm in norms:
        norm.blend = apart
    was_training = model.training
    model.train(False)
    try:
        yield apart
    finally:
        model.train(was_training)
        for norm in norms:
            norm.blend = shared
        set_lambda(model, lam)
