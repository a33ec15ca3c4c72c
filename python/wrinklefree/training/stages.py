"""The stages by name, and what is checked before any of them runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from wrinklefree.configs.config import RunConfig
from wrinklefree.models.staging import recover
from wrinklefree.training import (
    bitnet_sft,
    stage1_9_layerwise,
    stage1_subln,
    stage2_pretrain,
    stage3_distill,
    teacher_sft,
)
from wrinklefree.training.checkpointing import is_finished
from wrinklefree.training.distributed import check_division, open_world
from wrinklefree.training.student import parent_hash

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[RunConfig], Path]] = {
    "teacher_sft": teacher_sft.run,
    "bitnet_sft": bitnet_sft.run,
    "stage1_subln": stage1_subln.run,
    "stage1_9_layerwise": stage1_9_layerwise.run,
    "stage2_pretrain": stage2_pretrain.run,
    "stage3_distill": stage3_distill.run,
}


def run_stage(config: RunConfig) -> Path:
    """Run the stage, or return at once when `out` already holds its result."""
    check_division(config)
    with open_world(config.distributed) as world:
        if world.is_main:
            recover(config.out)
        world.wait()
        is_done = is_finished(config, parent_hash(config.model))
        world.wait()  # nobody may write before all have looked
        if is_done:
            log.info("%s is finished already; nothing to do", config.out)
            return Path(config.out)
        return STAGES[config.training.stage](config)
