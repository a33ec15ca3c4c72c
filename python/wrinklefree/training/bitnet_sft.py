"""The plain baseline: teacher_sft's recipe, but ternary from step 1; no SubLN, ramp or teacher.

wf-train training=bitnet_sft model.path=teacher data.path=train.jsonl data.format=choice out=runs/b
"""

from __future__ import annotations

from pathlib import Path

from wrinklefree.configs.config import RunConfig
from wrinklefree.models.quant_config import QuantConfig
from wrinklefree.models.surgery import quantize_
from wrinklefree.training.run import train
from wrinklefree.training.student import load_float


def run(config: RunConfig) -> Path:
    """A float model in, a ternary model out."""
    student = load_float(config.model)
    quantize_(student.model, QuantConfig(subln="none", lam=1.0))
    return train(config, student)
