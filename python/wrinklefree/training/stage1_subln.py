"""Stage 1: insert quantizers and SubLN, calibrate the SubLN gains; no gradient.

wf-train training=stage1_subln model.path=teacher data.path=corpus.jsonl out=runs/s1

The artifact has lambda 0 and still computes the float model; its gains are ready for lambda > 0.
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import replace
from pathlib import Path

from wrinklefree.configs.config import RunConfig, SublnConfig
from wrinklefree.models.calibration import calibrate_subln_
from wrinklefree.models.manifest import Manifest
from wrinklefree.models.quant_config import QuantConfig
from wrinklefree.models.surgery import quantize_
from wrinklefree.training import checkpointing, continuity, input_files
from wrinklefree.training.forward import calibration_rows_of
from wrinklefree.training.inputs import open_inputs
from wrinklefree.training.student import load_float

log = logging.getLogger(__name__)


def run(config: RunConfig) -> Path:
    """A float model in, its quantized twin at lambda 0 out.

    Raises VerificationError when the twin does not compute what the float model does.
    """
    stage = config.training
    assert isinstance(stage, SublnConfig)
    hashes = input_files.input_hashes(config)
    student = load_float(config.model)
    model = student.model
    inputs = open_inputs(
        replace(config.data, eval_path=None, eval_rows=0),
        student.tokenizer,
        batch_size=stage.batch_size,
        seed=stage.seed,
    )
    before = continuity.record(model, continuity.probe_tokens(inputs.sample))

    quantize_(model, QuantConfig(subln=config.model.subln, lam=0.0))
    num_batches = stage.calibration_batches
    if inputs.rows.train is not None:
        num_batches = min(num_batches, math.ceil(len(inputs.rows.train) / stage.batch_size))
    errors: dict[str, float] = {}
    if config.model.subln != "none":
        with contextlib.closing(inputs.loader) as loader:
            batches = [calibration_rows_of(next(loader), model.config) for _ in range(num_batches)]
        errors = calibrate_subln_(model, batches, method=stage.calibration)
    continuity.verify(model, before, config.model.path)
    log.info("inserted %d SubLN norms; lambda 0 still computes the float model", len(errors))

    manifest = Manifest(
        stage=stage.stage,
        parent=student.parent,
        recipe=checkpointing.recipe_of(config),
        data_position=inputs.loader.state_dict(),
        metrics={
            "subln_errors": errors,
            continuity.METRIC: before,
            input_files.METRIC: hashes,
        },
    )
    out = Path(config.out)
    checkpointing.save_finished(out, model, student.tokenizer, manifest)
    return out
