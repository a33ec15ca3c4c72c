"""Gradient norm and clipping; ZClip against its formula, and its exact continuation."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from wrinklefree.configs.config import GradientConfig
from wrinklefree.training.clipping import SMOOTHING, Clipper, ZClip, gradient_norm


def config(**values: Any) -> GradientConfig:
    return GradientConfig(stage="stage2_pretrain", **values)


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(2))
        if gradient is not None:
            parameter.grad = torch.tensor(gradient)
        made.append(parameter)
    return made


def test_norm_is_over_all_gradients_together() -> None:
    assert float(gradient_norm(parameters([1.0, 2.0], None, [2.0, 4.0]))) == 5.0
    assert math.isinf(float(gradient_norm(parameters([math.inf, 0.0]))))


def test_only_larger_gradients_are_scaled() -> None:
    clipper = Clipper(config(max_grad_norm=2.5))
    large, small = parameters([3.0, 4.0]), parameters([0.3, 0.4])
    assert clipper.clip(large, gradient_norm(large)) == 2.5
    clipper.clip(small, gradient_norm(small))
    assert large[0].grad is not None
    assert large[0].grad.tolist() == pytest.approx([1.5, 2.0], rel=1e-6)
    assert small[0].grad is not None
    assert small[0].grad.tolist() == torch.tensor([0.3, 0.4]).tolist()


def test_a_spike_is_cut_the_more_the_higher_it_is() -> None:
    usual = [0.9, 1.1, 1.0, 0.8, 1.2]
    mean, deviation = statistics.fmean(usual), statistics.pstdev(usual)
    limits = []
    for norm in (2.0, 20.0):
        zclip = ZClip(2.5, warmup=5)
        assert [zclip.limit(value) for value in usual] == [math.inf] * 5
        z = (norm - mean) / (deviation + 1e-6)
        limits.append(zclip.limit(norm))
        assert limits[-1] == pytest.approx(mean + 2.5**2 / z * deviation)
    assert 1.2 > limits[0] > limits[1] > mean


def test_ordinary_norms_pass_and_move_the_statistics() -> None:
    zclip = ZClip(2.5, warmup=2)
    zclip.limit(1.0), zclip.limit(2.0)
    assert zclip.limit(1.8) == math.inf  # mean 1.5, deviation 0.5: z is 0.6
    state = zclip.state_dict()
    mean = SMOOTHING * 1.5 + (1 - SMOOTHING) * 1.8
    assert state["mean"] == pytest.approx(mean)
    assert state["variance"] == pytest.approx(
        SMOOTHING * 0.25 + (1 - SMOOTHING) * (1.8 - mean) ** 2
    )


def test_one_spike_does_not_license_the_next() -> None:
    zclip = ZClip(2.5, warmup=4)
    for norm in (0.9, 1.1, 1.0, 1.0):
        zclip.limit(norm)
    first, second = zclip.limit(50.0), zclip.limit(50.0)
    assert second < 1.1 * first < 1.5


def test_equal_norms_do_not_divide_by_zero() -> None:
    zclip = ZClip(2.5, warmup=2)
    zclip.limit(1.0), zclip.limit(1.0)
    assert zclip.limit(1.0) == math.inf
    assert zclip.limit(1.5) == pytest.approx(1.0)


@pytest.mark.parametrize("stop_after", [3, 17])
def test_saved_statistics_continue_bit_for_bit(stop_after: int) -> None:
    generator = random.Random(0)
    norms = [generator.lognormvariate(0, 1) for _ in range(40)]
    whole = ZClip(1.5, warmup=8)
    expected = [whole.limit(norm) for norm in norms]
    assert sum(limit < math.inf for limit in expected) > 2

    first, second = ZClip(1.5, warmup=8), ZClip(1.5, warmup=8)
    limits = [first.limit(norm) for norm in norms[:stop_after]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert limits + [second.limit(norm) for norm in norms[stop_after:]] == expected


def test_the_lower_limit_holds() -> None:
    for max_norm, expected in ((0.5, 0.5), (100.0, 1.0)):
        clipper = Clipper(config(max_grad_norm=max_norm, zclip=2.5, zclip_warmup=2))
        for value in (1.0, 1.0):
            made = parameters([value, 0.0])
            clipper.clip(made, gradient_norm(made))
        spike = parameters([30.0, 40.0])
        assert clipper.clip(spike, gradient_norm(spike)) == pytest.approx(expected)
        assert float(gradient_norm(spike)) == pytest.approx(expected, rel=1e-5)


def test_the_knobs_reach_the_run(
    run: Callable[..., Path],
    random_models: dict[str, str],
    corpus: str,
    read_metrics: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    def limits(name: str, *settings: str) -> list[float]:
        model = (f"model.path={random_models['llama']}", f"data.path={corpus}")
        out = run("teacher_sft", tmp_path / name, *model, "training.steps=6", *settings)
        return [entry["grad_limit"] for entry in read_metrics(out)]

    high = "training.max_grad_norm=1000"
    assert limits("fixed", high) == [1000.0] * 6
    low = limits("adaptive", high, "training.zclip=0.01", "training.zclip_warmup=2")
    assert low[:2] == [1000.0] * 2
    assert min(low) < 1000.0
    assert limits("late", high, "training.zclip=0.01", "training.zclip_warmup=6") == [1000.0] * 6
