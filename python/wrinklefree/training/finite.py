"""Stop at the first infinity or NaN, and say where it came from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

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
    return NonFiniteError(
        f"step {step}: the loss is {loss.item()}; {where} (rows {_rows(batch)}); {ADVICE}"
    )


def gradient_error(origin: str, batch: Batch, *, step: int) -> NonFiniteError:
    """For gradients that are not finite: names step, data rows and where they became so, which is
    what `watch_gradients` found."""
    return NonFiniteError(
        f"step {step}: the gradient of {origin} is the first that is not finite "
        f"(rows {_rows(batch)}); {ADVICE}"
    )


def norm_error(norm: torch.Tensor, *, step: int) -> NonFiniteError:
    """For finite gradients of all batches whose sum is not."""
    return NonFiniteError(
        f"step {step}: the norm of the gradient is {norm.item()}, and the gradients of each batch "
        f"are finite, so their sum overflowed; {ADVICE}"
    )


@contextlib.contextmanager
def watch_gradients(model: PreTrainedModel) -> Iterator[list[str]]:
    """The list gets the names of outputs and parameters whose gradients are not finite, in the
    order of the backward pass, while both passes run inside. Gradients are this process's own, even
    of a divided model: they are looked at before anything is summed."""
    found: list[str] = []

    def report(name: str) -> Callable[[torch.Tensor], None]:
        def look(gradient: torch.Tensor) -> None:
            if not torch.isfinite(gradient).all():
                found.append(name)

        return look

    watched: dict[torch.Tensor, torch.utils.hooks.RemovableHandle] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_module: nn.Module, _inputs: object, output: object) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                    tensor.register_hook(  # type: ignore[no-untyped-call]
                        report(f"the output of {name}")
                    )
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in watched:
                    watched[parameter] = parameter.register_hook(  # type: ignore[no-untyped-call]
                        report(f"{name}.{own}")
                    )

        return module.register_forward_hook(look)

    hooks = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for hook in (*hooks, *watched.values()):
            hook.remove()


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


def _rows(batch: Batch) -> str:
    return ", ".join(str(row) for row in batch.row_indices)
