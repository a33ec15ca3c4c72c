"""Stage 3: task distillation, CE + kd_weight * KL + gamma * attention relation (eq. 13).

wf-train training=stage3_distill model.path=runs/s2 training.teacher=runs/sft \
    data.path=train.jsonl data.format=choice out=runs/s3
"""

from __future__ import annotations

from pathlib import Path

from wrinklefree.configs.config import RunConfig
from wrinklefree.training.run import train
from wrinklefree.training.student import load_ternary


def run(config: RunConfig) -> Path:
    """An artifact in, the deployable artifact out."""
    return train(config, load_ternary(config.model))
