"""Stage 1: insert quantizers and SubLN, calibrate the SubLN gains; no gradient.

wf-train training=stage1_subln model.path=teacher data.path=corpus.jsonl out=runs/s1

The artifact has lambda 0 and still computes the float model; its gains are ready for lambda > 0.
"""

from __future__ import annotations

import logging
from pathlib import Path

from wrinklefree.configs.config import RunConfig, SublnConfig
from wrinklefree.data.loader import Loader
from wrinklefree.data.packing import tokenize
from wrinklefree.data.sources import read_records
from wrinklefree.models.calibration import calibrate_subln_
from wrinklefree.models.manifest import Manifest
from wrinklefree.models.quant_config import QuantConfig
from wrinklefree.models.surgery import quantize_
from wrinklefree.training import checkpointing, continuity
from wrinklefree.training.student import load_float

log = logging.getLogger(__name__)


def run(config: RunConfig) -> Path:
    """A float model in, its quantized twin at lambda 0 out.

    Raises VerificationError when the twin does not compute what the float model does.
    """
    stage = config.training
    assert isinstance(stage, SublnConfig)
    student = load_float(config.model)
    model = student.model
    rows = tokenize(read_records(config.data), student.tokenizer, max_length=config.data.max_length)
    before = continuity.record(model, continuity.probe_tokens(rows))

    quantize_(model, QuantConfig(subln=config.model.subln, lam=0.0))
    loader = Loader(rows, batch_size=stage.batch_size, seed=stage.seed)
    num_batches = min(stage.calibration_batches, loader.batches_per_epoch)
    errors: dict[str, float] = {}
    if config.model.subln != "none":
        batches = [next(loader) for _ in range(num_batches)]
        errors = calibrate_subln_(
            model, [(b.tokens_BL, b.is_token_BL) for b in batches], method=stage.calibration
        )
    continuity.verify(model, before, config.model.path)
    log.info("inserted %d SubLN norms; lambda 0 still computes the float model", len(errors))

    manifest = Manifest(
        stage=stage.stage,
        parent=student.parent,
        recipe=checkpointing.recipe_of(config),
        data_position=loader.state_dict(),
        metrics={"subln_errors": errors, continuity.METRIC: before},
    )
    out = Path(config.out)
    checkpointing.save_finished(out, model, student.tokenizer, manifest)
    return out
