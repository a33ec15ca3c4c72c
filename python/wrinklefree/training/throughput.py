"""Tokens per second and MFU: the share of the processor's peak that training makes use of.

MFU (arXiv 2204.02311, appendix B) = floating-point operations of the student's step / (seconds of
the step * peak). Operations, forward and backward: 6 per weight of a decoder matrix and token, 6
per weight of the head and position with logits, 6 * heads * head width * length^2 per layer and row
(causal attention). What a run does beyond that (teacher, recomputed activations, waiting for data)
takes time and counts as nothing. Several processes: the operations of all, the peak of each.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.loader import Batch
from wrinklefree.models.decoder import decoder_layers
from wrinklefree.training.distributed import World
from wrinklefree.training.forward import head
from wrinklefree.training.objective import Counts, Objective, count, state_widths
from wrinklefree.training.precision import Precision

log = logging.getLogger(__name__)

PRODUCT_SIZE, PRODUCT_REPEATS = 1024, 5


class Throughput:
    """What one step does, against the peak of the processors."""

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        precision: Precision,
        config: GradientConfig,
        world: World = World(),  # noqa: B008 (frozen)
    ) -> None:
        self.objective, self.world = objective, world
        layers = decoder_layers(model)
        self._body = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
        self._head = sum(p.numel() for p in head(model).parameters() if p.ndim == 2)
        self._attention = len(layers) * state_widths(model)[0]
        if config.peak_tflops is not None:
            self.peak, origin = config.peak_tflops * 1e12, "as given by training.peak_tflops"
        else:
            self.peak = measure_peak(precision.device, precision.dtype, torch.get_num_threads())
            origin = f"measured, {precision.name} product of {PRODUCT_SIZE} x {PRODUCT_SIZE}"
        log.info("MFU is relative to %.3g TFLOP/s (%s)", self.peak / 1e12, origin)

    def values(self, batches: Sequence[Batch], counts: Counts, seconds: float) -> dict[str, float]:
        """What to log of a step: `batches` are this process's, `counts` those of all. All processes
        must call it together."""
        (operations,) = self.world.sum([self.operations(batches, count(batches))])
        used = operations / (seconds * self.peak * self.world.size)
        return {"tokens": counts.tokens, "tokens_per_s": counts.tokens / seconds, "mfu": used}

    def operations(self, batches: Sequence[Batch], counts: Counts) -> int:
        """Floating-point operations of the student's forward and backward pass over these batches,
        which hold that many labels and tokens."""
        squares = sum(int(batch.is_token_BL.sum(1).square().sum()) for batch in batches)
        logits = self.objective.num_logits(counts)
        return 6 * (self._body * counts.tokens + self._head * logits + self._attention * squares)


@functools.cache
def measure_peak(device: torch.device, dtype: torch.dtype, num_threads: int) -> float:
    """Operations per second of the best of a few square products, with this many CPU threads."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (PRODUCT_SIZE, PRODUCT_SIZE)
    a = torch.randn(shape, device=device, generator=generator).to(dtype)
    seconds = []
    for _ in range(1 + PRODUCT_REPEATS):  # the first one warms up
        _wait(device)
        began = time.perf_counter()
        a @ a
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return float(2 * PRODUCT_SIZE**3 / min(seconds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
