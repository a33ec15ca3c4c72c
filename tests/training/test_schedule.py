"""Learning rate, weight decay and lambda by step."""

from __future__ import annotations

from typing import Any

import pytest

from wrinklefree.configs.config import GradientConfig
from wrinklefree.errors import UsageError
from wrinklefree.training.schedule import lambda_ramp, learning_rate, weight_decay


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


def test_weight_decay_has_two_phases() -> None:
    decay = weight_decay(config(weight_decay=0.1, weight_decay_until=0.5), 10)
    assert [decay.at(step) for step in range(10)] == [0.1] * 5 + [0.0] * 5
    assert weight_decay(config(weight_decay=0.1), 10).at(9) == 0.1
    assert weight_decay(config(weight_decay=0.1, weight_decay_until=0.0), 10).at(0) == 0.0
