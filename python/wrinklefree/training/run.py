"""A run from its config: data, objective, teacher, loop, artifact. Stages call `train`."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrinklefree.configs.config import DataConfig, GradientConfig, RunConfig
from wrinklefree.data.loader import Loader, collate
from wrinklefree.data.packing import TokenRows, tokenize
from wrinklefree.data.sources import read_records
from wrinklefree.errors import UsageError
from wrinklefree.models.surgery import get_lambda, quant_config_of, set_lambda
from wrinklefree.models.teacher import load_teacher
from wrinklefree.models.weight_calibration import calibrate_weights_
from wrinklefree.training import checkpointing
from wrinklefree.training.evaluation import Evaluation
from wrinklefree.training.interrupt import StopRequest
from wrinklefree.training.metrics import MetricsLog
from wrinklefree.training.objective import Objective, build_objective
from wrinklefree.training.optim import build_optimizer, freeze
from wrinklefree.training.output import Output
from wrinklefree.training.precision import Precision, choose_precision
from wrinklefree.training.schedule import lambda_ramp, learning_rate
from wrinklefree.training.student import Student
from wrinklefree.training.teacher import Teacher
from wrinklefree.training.teacher_cache import CachedTeacher
from wrinklefree.training.trainer import Trainer

log = logging.getLogger(__name__)

CALIBRATION_LINES = 6  # how often the calibration of weights reports
TEACHER_CACHE_DIR = "teacher-cache"  # beside `out`, shared by the runs there


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows, and evaluation rows if there are any."""

    train: TokenRows
    evaluation: TokenRows | None


def load_rows(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Tokenize the data. Without data.eval_path the last rows, at most a tenth, are held out."""
    rows = tokenize(read_records(config), tokenizer, max_length=config.max_length)
    if rows.skipped:
        log.info(
            "skipped %d of %d records: longer than data.max_length=%d",
            rows.skipped,
            rows.skipped + len(rows),
            config.max_length,
        )
    if config.eval_path is not None and config.eval_rows > 0:
        records = read_records(config, config.eval_path)
        held_out = tokenize(records, tokenizer, max_length=config.max_length)
        evaluation, _ = held_out.split(min(config.eval_rows, len(held_out)))
        return Rows(rows, evaluation)
    num_held_out = min(config.eval_rows, len(rows) // 10)
    if num_held_out == 0:
        return Rows(rows, None)
    train_rows, evaluation = rows.split(len(rows) - num_held_out)
    return Rows(train_rows, evaluation)


def num_steps(config: GradientConfig, num_rows: int) -> int:
    """Optimizer steps of a run over so many rows."""
    if config.steps is not None:
        return config.steps
    batches = math.ceil(num_rows / config.batch_size)
    return max(1, math.ceil(config.epochs * batches / config.accumulation))


def train(config: RunConfig, student: Student) -> Path:
    """Train the student as config.training says and leave the artifact at config.out.

    Continues an interrupted run in `out`. Raises KeyboardInterrupt after saving when stopped.
    """
    training = config.training
    assert isinstance(training, GradientConfig)
    progress = checkpointing.find_progress(config, student.parent)
    precision = choose_precision(training)
    rows = load_rows(config.data, student.tokenizer)
    total_steps = num_steps(training, len(rows.train))
    torch.manual_seed(training.seed)

    model, out = student.model, Path(config.out)
    is_ternary = quant_config_of(model) is not None
    if training.calibration_rows > 0:
        set_lambda(model, 1.0)
        if progress is None:
            _calibrate_weights(model, training, rows.train)
    ramp = lambda_ramp(training, total_steps, start=get_lambda(model)) if is_ternary else None
    if progress is not None:
        log.info("continuing %s at step %d of %d", out, progress.step, total_steps)
        checkpointing.restore_weights(out, model)
    model.to(precision.device)  # type: ignore[arg-type]
    freeze(model, training.freeze)
    objective = build_objective(training, model)
    loader = Loader(rows.train, batch_size=training.batch_size, seed=training.seed)
    optimizer = build_optimizer(model, training)
    if progress is not None:
        loader.load_state_dict(progress.loader)
        checkpointing.restore_optimizer(out, model, optimizer)

    output = Output(config, student, loader, optimizer, total_steps)
    trainer = Trainer(
        model=model,
        objective=objective,
        teacher=_open_teacher(config, student, objective, rows.train, precision),
        loader=loader,
        evaluation=Evaluation(rows.evaluation, training.batch_size),
        optimizer=optimizer,
        learning_rate=learning_rate(training, total_steps),
        ramp=ramp,
        precision=precision,
        total_steps=total_steps,
        config=training,
        save=output.checkpoint,
    )
    start_step = progress.step if progress is not None else 0
    report = MetricsLog(out, stage=training.stage, total_steps=total_steps, start_step=start_step)
    with report as metrics, StopRequest() as stop:
        evaluation = trainer.run(metrics, stop, start_step=start_step)
    output.finish(evaluation)
    return out


def _calibrate_weights(model: PreTrainedModel, training: GradientConfig, rows: TokenRows) -> None:
    """Solve the master weights for the deployed numbers, on the last rows of the data."""
    teacher, _ = load_teacher(_teacher_path(training), revision=training.teacher_revision)
    num_layers = int(model.config.num_hidden_layers)
    batch = collate(rows, tuple(range(max(0, len(rows) - training.calibration_rows), len(rows))))

    def tell(layers: int) -> None:
        if layers % math.ceil(num_layers / CALIBRATION_LINES) == 0 or layers == num_layers:
            log.info("solved the ternary weights of %d/%d layers", layers, num_layers)

    calibrate_weights_(model, teacher, batch.tokens_BL, batch.is_token_BL, progress=tell)


def _teacher_path(training: GradientConfig) -> str:
    if training.teacher is None:
        raise UsageError(
            f"{training.stage} distils from a teacher; give training.teacher=DIR (a float model)"
        )
    return training.teacher


def _open_teacher(
    config: RunConfig,
    student: Student,
    objective: Objective,
    rows: TokenRows,
    precision: Precision,
) -> Teacher | CachedTeacher | None:
    training = config.training
    assert isinstance(training, GradientConfig)
    if not objective.needs_teacher:
        return None
    model, _ = load_teacher(_teacher_path(training), revision=training.teacher_revision)
    teacher = Teacher(model, objective, student=student.model, precision=precision)
    if not training.cache_teacher:
        return teacher
    cached = CachedTeacher(teacher, rows, Path(config.out).parent / TEACHER_CACHE_DIR)
    log.info("teacher outputs are kept in %s", cached.directory)
    return cached
