"""Stage 1.9: lambda rises to 1 while every layer's normalised hidden state follows the teacher's.

wf-train training=stage1_9_layerwise model.path=runs/s1 training.teacher=teacher \
    data.path=corpus.jsonl out=runs/s19
"""

from __future__ import annotations

from pathlib import Path

from wrinklefree.configs.config import RunConfig
from wrinklefree.training.run import train
from wrinklefree.training.student import load_ternary


def run(config: RunConfig) -> Path:
    """An artifact of stage 1 in, an artifact at lambda 1 out."""
    return train(config, load_ternary(config.model))
