"""Gradient norm and clipping: at a fixed norm, and ZClip, at what has been usual in this run.

ZClip (arXiv 2504.02507, section 3): mean and variance of the norm are exponential averages. A norm
more than `threshold` standard deviations above the mean is a spike; it is cut to
mean + threshold^2 / z * deviation, so the higher it stands out the less of it stays.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from wrinklefree.configs.config import GradientConfig
from wrinklefree.training.distributed import World
from wrinklefree.training.sharding import local

SMOOTHING = 0.97  # share of the old mean and variance that stays, as published
EPS = 1e-6


def gradient_norm(
    parameters: Iterable[nn.Parameter],
    world: World = World(),  # noqa: B008 (frozen)
) -> torch.Tensor:
    """Euclidean norm of all gradients together, a float32 scalar on the CPU.

    Squares are summed in float64 and rounded once, so that the order of the sum, which depends on
    how a gradient is divided among processes, all but never decides a bit.
    """
    total = 0.0
    for parameter in parameters:
        if parameter.grad is not None:
            norm = torch.linalg.vector_norm(local(parameter.grad), dtype=torch.float64)
            total += float(norm) ** 2
    if world.is_sharded:
        (total,) = world.sum([total])
    return torch.tensor(math.sqrt(total))


class ZClip:
    """Running statistics of the gradient norm and the limit they give. Norms are finite."""

    def __init__(self, threshold: float, warmup: int) -> None:
        self.threshold = threshold  # in standard deviations
        self.warmup = warmup  # norms that set mean and variance before anything is cut
        self._first: list[float] = []
        self._mean = 0.0
        self._variance = 0.0

    def limit(self, norm: float) -> float:
        """The norm that this step may have, infinity for no limit; takes note of the step."""
        if len(self._first) < self.warmup:
            self._first.append(norm)
            self._mean = statistics.fmean(self._first)
            self._variance = statistics.pvariance(self._first, self._mean)
            return math.inf
        deviation = math.sqrt(self._variance)
        z = (norm - self._mean) / (deviation + EPS)
        is_spike = z > self.threshold
        allowed = self._mean + self.threshold**2 / z * deviation if is_spike else norm
        # The statistics follow what was let through, so one spike does not license the next.
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * allowed
        distance = allowed - self._mean
        self._variance = SMOOTHING * self._variance + (1 - SMOOTHING) * distance**2
        return allowed if is_spike else math.inf

    def state_dict(self) -> dict[str, Any]:
        """The statistics as JSON values."""
        return {"first": self._first, "mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved statistics."""
        self._first = [float(norm) for norm in state["first"]]
        self._mean, self._variance = float(state["mean"]), float(state["variance"])


class Clipper:
    """Scales gradients down to the lower of the fixed and the usual norm."""

    def __init__(self, config: GradientConfig) -> None:
        self.max_norm = config.max_grad_norm
        is_adaptive = config.zclip > 0
        self.zclip = ZClip(config.zclip, config.zclip_warmup) if is_adaptive else None

    def clip(self, parameters: Iterable[nn.Parameter], norm: torch.Tensor) -> float:
        """Clip gradients of total norm `norm`, in place; returns the norm they may have now."""
        limit = self.max_norm
        if self.zclip is not None:
            limit = min(limit, self.zclip.limit(float(norm)))
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return limit

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return self.zclip.state_dict() if self.zclip is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state of the same configuration."""
        if self.zclip is not None:
            self.zclip.load_state_dict(state)
