"""Rates and lambda as functions of the step alone: a resumed run continues exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wrinklefree.configs.config import GradientConfig
from wrinklefree.errors import UsageError


@dataclass(frozen=True, slots=True)
class LearningRate:
    """Warm-up from 0, then constant, cosine, or constant with a linear tail (wsd)."""

    peak: float
    final: float
    shape: str
    total_steps: int
    warmup_steps: int
    decay_steps: int

    def at(self, step: int) -> float:
        """Rate of step 0..total_steps-1."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        if self.shape == "constant":
            return self.peak
        tail = self.total_steps - self.warmup_steps if self.shape == "cosine" else self.decay_steps
        # 0 at the last step before the tail, 1 just after the last step.
        progress = max(0.0, (step + 1 - (self.total_steps - tail)) / (tail + 1))
        falling = (1 + math.cos(math.pi * progress)) / 2 if self.shape == "cosine" else 1 - progress
        return self.final + (self.peak - self.final) * falling


@dataclass(frozen=True, slots=True)
class LambdaRamp:
    """Linear from the parent's lambda to exactly 1 over `ramp_steps`; never falls."""

    start: float
    ramp_steps: int

    def at(self, step: int) -> float:
        """Lambda that step `step` trains with; `at(ramp_steps)` and later is exactly 1."""
        if step >= self.ramp_steps:
            return 1.0
        return self.start + (1.0 - self.start) * step / self.ramp_steps


@dataclass(frozen=True, slots=True)
class WeightDecay:
    """Two phases: `value` for the first steps, then none (BitNet's recipe, docs/training.md)."""

    value: float
    num_steps: int

    def at(self, step: int) -> float:
        """Decay of step 0..total_steps-1."""
        return self.value if step < self.num_steps else 0.0


def learning_rate(config: GradientConfig, total_steps: int) -> LearningRate:
    """The schedule of a run. Raises UsageError when warm-up and decay overlap."""
    if config.schedule == "wsd" and config.warmup + config.decay > 1:
        raise UsageError(
            f"training.warmup={config.warmup} and training.decay={config.decay} are shares of the "
            "steps; together they must not exceed 1"
        )
    return LearningRate(
        peak=config.lr,
        final=config.lr * config.final_lr,
        shape=config.schedule,
        total_steps=total_steps,
        warmup_steps=round(config.warmup * total_steps),
        decay_steps=round(config.decay * total_steps),
    )


def weight_decay(config: GradientConfig, total_steps: int) -> WeightDecay:
    """The weight decay of a run."""
    return WeightDecay(config.weight_decay, round(config.weight_decay_until * total_steps))


def lambda_ramp(config: GradientConfig, total_steps: int, *, start: float) -> LambdaRamp:
    """The ramp of a run that starts from a parent at lambda `start`."""
    return LambdaRamp(start, 0 if start == 1.0 else round(config.lambda_ramp * total_steps))
