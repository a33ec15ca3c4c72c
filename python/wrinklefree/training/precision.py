"""The number type of the forward and backward pass. Master weights are always float32."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from wrinklefree.configs.config import GradientConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Precision:
    """Where and in which type a run computes."""

    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """float32 or bfloat16."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context that forward passes run in."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def choose_precision(config: GradientConfig) -> Precision:
    """Device and compute type, logged with the reason."""
    if torch.cuda.is_available():
        device, native = torch.device("cuda"), torch.cuda.is_bf16_supported()
        reason = f"{torch.cuda.get_device_name()} {'has' if native else 'lacks'} bfloat16"
    else:
        device, native = torch.device("cpu"), _cpu_multiplies_bfloat16()
        reason = f"this CPU {'has' if native else 'lacks'} bfloat16 instructions"
    if config.dtype == "auto":
        dtype = torch.bfloat16 if native else torch.float32
    else:
        dtype = getattr(torch, config.dtype)
        reason = "as given by training.dtype"
    precision = Precision(device, dtype)
    log.info("computing in %s on %s: %s", precision.name, device.type, reason)
    return precision


def _cpu_multiplies_bfloat16() -> bool:
    """Whether Linux reports bf16 dot products; without them bf16 is slower than float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
