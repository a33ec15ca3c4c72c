"""Stage 2: continue-pretraining of the ternary model on text (arXiv 2510.13998, eq. 7).

wf-train training=stage2_pretrain model.path=runs/s19 data.path=corpus.jsonl out=runs/s2
"""

from __future__ import annotations

from pathlib import Path

from wrinklefree.configs.config import RunConfig
from wrinklefree.training.run import train
from wrinklefree.training.student import load_ternary


def run(config: RunConfig) -> Path:
    """An artifact in, an artifact at lambda 1 out."""
    return train(config, load_ternary(config.model))
