"""The stages by name, and what is checked before any of them runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from wrinklefree.configs.config import RunConfig
from wrinklefree.errors import UsageError
from wrinklefree.training import (
    bitnet_sft,
    sft,
    stage1_9_layerwise,
    stage1_subln,
    stage2_pretrain,
    stage3_distill,
)
from wrinklefree.training.checkpointing import is_finished
from wrinklefree.training.student import parent_hash

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[RunConfig], Path]] = {
    "sft": sft.run,
    "bitnet_sft": bitnet_sft.run,
    "stage1_subln": stage1_subln.run,
    "stage1_9_layerwise": stage1_9_layerwise.run,
    "stage2_pretrain": stage2_pretrain.run,
    "stage3_distill": stage3_distill.run,
}


def run_stage(config: RunConfig) -> Path:
    """Run the stage, or return at once when `out` already holds its result."""
    world_size = os.environ.get("WORLD_SIZE", "1")
    if world_size != "1":
        raise UsageError(
            f"WORLD_SIZE={world_size}: distributed={config.distributed.kind} trains in one "
            "process; start wf-train without torchrun"
        )
    if is_finished(config, parent_hash(config.model)):
        log.info("%s is finished already; nothing to do", config.out)
        return Path(config.out)
    return STAGES[config.training.stage](config)
