"""Stop at the first infinity or NaN, and say where it came from."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from wrinklefree.data.loader import Batch
from wrinklefree.errors import WrinklefreeError
from wrinklefree.training.forward import decode, head


class NonFiniteError(WrinklefreeError):
    """A loss or gradient is infinite or NaN. The last checkpoint is untouched."""


ADVICE = "lower training.lr or raise training.warmup; the last checkpoint is intact"


def loss_error(
    loss: torch.Tensor, model: PreTrainedModel, batch: Batch, *, step: int
) -> NonFiniteError:
    """For a loss that is not finite: names step, data rows and the first module with a bad output.

    Runs the model once more.
    """
    module = _first_bad_module(model, batch)
    where = (
        f"the output of {module} is the first that is not finite"
        if module
        else "every module's output is finite, so the loss itself overflowed"
    )
    rows = ", ".join(str(row) for row in batch.row_indices)
    return NonFiniteError(
        f"step {step}: the loss is {loss.item()}; {where} (rows {rows}); {ADVICE}"
    )


def check_gradients(norm: torch.Tensor, model: PreTrainedModel, *, step: int) -> None:
    """Raises NonFiniteError naming step and the parameter, given the total gradient norm."""
    if torch.isfinite(norm):
        return
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    # Clipping multiplies by 1/norm, so a finite but overflowing sum makes no gradient infinite.
    named = bad[-1] if bad else "their sum"
    raise NonFiniteError(
        f"step {step}: the gradient of {named} is not finite ({len(bad)} parameters); {ADVICE}"
    )


@torch.no_grad()
def _first_bad_module(model: PreTrainedModel, batch: Batch) -> str | None:
    found: list[str] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_module: nn.Module, _inputs: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if any(isinstance(t, torch.Tensor) and not torch.isfinite(t).all() for t in tensors):
                found.append(name)

        return module.register_forward_hook(look)

    hooks = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        head(model)(decode(model, batch).last_BLD[batch.is_token_BL])
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
