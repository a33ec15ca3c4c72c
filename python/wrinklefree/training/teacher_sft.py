"""Full-precision fine-tuning on a task: makes the teacher that stage 3 distils from.

wf-train training=teacher_sft model.path=teacher data.path=train.jsonl \
    data.format=choice out=runs/sft
"""

from __future__ import annotations

from pathlib import Path

from wrinklefree.configs.config import RunConfig
from wrinklefree.training.run import train
from wrinklefree.training.student import load_float


def run(config: RunConfig) -> Path:
    """A float model in, a float model out."""
    return train(config, load_float(config.model))
