"""Which optimizer moves which parameter, at what rate and decay; Muon's update itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.errors import UsageError
from wrinklefree.training.optim import build_optimizers, freeze, set_rates


def config(**values: Any) -> GradientConfig:
    return GradientConfig(stage="stage2_pretrain", **values)


@pytest.fixture
def model(random_models: dict[str, str]) -> PreTrainedModel:
    return LlamaForCausalLM.from_pretrained(random_models["llama"])


def test_gains_have_no_decay_and_their_own_rate(model: PreTrainedModel) -> None:
    (optimizer,) = build_optimizers(model, config(gains_lr_multiplier=5.0))
    set_rates([optimizer], 0.01, 0.1)
    matrices, gains = optimizer.param_groups
    assert all(parameter.ndim == 2 for parameter in matrices["params"])
    assert (matrices["weight_decay"], matrices["lr"]) == (0.1, 0.01)
    assert len(gains["params"]) == 2 * 3 + 1
    assert (gains["weight_decay"], gains["lr"]) == (0.0, 0.05)


def test_freeze(model: PreTrainedModel) -> None:
    freeze(model, ("embed",))
    assert not model.lm_head.weight.requires_grad  # tied
    assert model.model.norm.weight.requires_grad
    freeze(model, ("norms",))
    assert model.lm_head.weight.requires_grad
    assert not model.model.norm.weight.requires_grad


def test_everything_frozen_is_refused(model: PreTrainedModel) -> None:
    for name, parameter in list(model.named_parameters()):
        if parameter.ndim == 2 and "embed" not in name:
            owner, _, attribute = name.rpartition(".")
            delattr(model.get_submodule(owner), attribute)
    with pytest.raises(UsageError, match="leaves no parameter"):
        freeze(model, ("embed", "norms"))


def test_muon_takes_the_matrices_of_the_body_and_nothing_else(model: PreTrainedModel) -> None:
    muon, adamw = build_optimizers(model, config(optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon)
    names = {parameter: name for name, parameter in model.named_parameters()}
    own = [{names[p] for g in o.param_groups for p in g["params"]} for o in (muon, adamw)]
    assert own[0] == {name for name in names.values() if name.endswith("_proj.weight")}
    assert own[0] | own[1] == set(names.values())
    assert not own[0] & own[1]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_muon_step_is_orthogonal_with_the_size_of_an_adamw_step(
    model: PreTrainedModel, momentum: float
) -> None:
    """The update of a matrix [N, K] is 0.2 sqrt(max(N, K)) times a nearly orthogonal one."""
    optimizers = build_optimizers(model, config(optimizer="muon", momentum=momentum))
    set_rates(optimizers, 0.01, 0.0)
    weight = model.model.layers[0].mlp.up_proj.weight  # [48, 32]
    before = weight.detach().clone()
    torch.manual_seed(0)
    weight.grad = torch.randn_like(weight)
    optimizers[0].step()
    update = (before - weight.detach()) / (0.01 * 0.2 * 48**0.5)
    singular = torch.linalg.svdvals(update.double())
    # Five Newton-Schulz steps leave singular values between about 0.7 and 1.2.
    assert float(singular.min()) > 0.6
    assert float(singular.max()) < 1.3
    assert float(update.flatten() @ weight.grad.flatten()) > 0

    weight.grad = torch.randn_like(weight)
    fresh = optimizers[0].state[weight]["momentum_buffer"].clone()
    optimizers[0].step()
    moved = optimizers[0].state[weight]["momentum_buffer"] - momentum * fresh
    scale = 1 - momentum
    assert torch.allclose(moved, scale * weight.grad, atol=1e-6)


def test_muon_needs_one_rate_for_both(model: PreTrainedModel) -> None:
    """The RMS of its step is within a factor of the step AdamW begins with, lr."""
    optimizers = build_optimizers(model, config(optimizer="muon"))
    set_rates(optimizers, 0.01, 0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    for name, parameter in model.named_parameters():
        rms = float((parameter.detach() - before[name]).square().mean().sqrt())
        assert 0.1 * 0.01 < rms < 1.5 * 0.01, name
