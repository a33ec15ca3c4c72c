"""Learning rate and lambda by step; what is frozen and what decays."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.errors import UsageError
from wrinklefree.training.optim import build_optimizer, freeze, set_learning_rate
from wrinklefree.training.schedule import lambda_ramp, learning_rate


def config(**values: Any) -> GradientConfig:
    return GradientConfig(stage="stage2_pretrain", **values)


def rates(**values: Any) -> list[float]:
    schedule = learning_rate(config(lr=1.0, **values), 100)
    return [schedule.at(step) for step in range(100)]


def test_warmup_rises_to_the_peak() -> None:
    for shape in ("constant", "cosine", "wsd"):
        values = rates(schedule=shape, warmup=0.1)
        assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
        assert max(values) == pytest.approx(values[10], abs=1e-3)


def test_constant_stays() -> None:
    assert set(rates(schedule="constant", warmup=0.0)) == {1.0}


def test_cosine_falls_to_the_final_share() -> None:
    values = rates(schedule="cosine", warmup=0.0, final_lr=0.1)
    assert values == sorted(values, reverse=True)
    assert values[49] == pytest.approx(0.55, abs=0.01)
    assert values[99] == pytest.approx(0.1, abs=1e-3)


def test_wsd_is_flat_then_linear() -> None:
    values = rates(schedule="wsd", warmup=0.0, decay=0.2)
    assert set(values[:80]) == {1.0}
    assert values[80:] == pytest.approx([1 - step / 21 for step in range(1, 21)])
    with pytest.raises(UsageError, match="must not exceed 1"):
        rates(schedule="wsd", warmup=0.9, decay=0.2)


@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 1.0])
def test_lambda_never_falls_and_ends_at_exactly_one(start: float, share: float) -> None:
    ramp = lambda_ramp(config(lambda_ramp=share), 77, start=start)
    values = [ramp.at(step) for step in range(78)]
    assert values == sorted(values)
    assert values[0] >= start
    assert values[77] == 1.0
    assert values.count(1.0) >= 77 - round(share * 77)


@pytest.fixture
def model(random_models: dict[str, str]) -> PreTrainedModel:
    return LlamaForCausalLM.from_pretrained(random_models["llama"])


def test_gains_have_no_decay_and_their_own_rate(model: PreTrainedModel) -> None:
    optimizer = build_optimizer(model, config(weight_decay=0.1, gains_lr_multiplier=5.0))
    set_learning_rate(optimizer, 0.01)
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
