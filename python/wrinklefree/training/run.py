"""A run from its config: data, objective, teacher, loop, artifact. Stages call `train`."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path

import torch
from transformers import PreTrainedModel

from wrinklefree.configs.config import GradientConfig, RunConfig
from wrinklefree.data.loader import collate
from wrinklefree.data.packing import TokenRows
from wrinklefree.errors import UsageError
from wrinklefree.models.surgery import get_lambda, quant_config_of, set_int8_grad, set_lambda
from wrinklefree.models.teacher import load_teacher
from wrinklefree.models.weight_calibration import calibrate_weights_
from wrinklefree.training import checkpointing
from wrinklefree.training.allocator import keep_freed_memory
from wrinklefree.training.compute import check_compiler, checkpoint_activations
from wrinklefree.training.dealing import StreamPart
from wrinklefree.training.distributed import current_world
from wrinklefree.training.evaluation import Evaluation
from wrinklefree.training.forward import calibration_rows_of
from wrinklefree.training.input_files import input_hashes
from wrinklefree.training.inputs import Inputs, num_steps, open_inputs
from wrinklefree.training.interrupt import StopRequest
from wrinklefree.training.metrics import MetricsLog
from wrinklefree.training.objective import Objective, build_objective
from wrinklefree.training.optim import freeze
from wrinklefree.training.output import Output
from wrinklefree.training.precision import Precision, choose_precision
from wrinklefree.training.samples import build_samples
from wrinklefree.training.schedule import lambda_ramp
from wrinklefree.training.sharding import apply_to, shard
from wrinklefree.training.student import Student
from wrinklefree.training.teacher import Teacher, check_tokens
from wrinklefree.training.teacher_cache import CachedTeacher
from wrinklefree.training.throughput import Throughput
from wrinklefree.training.tracking import check_installed, open_trackers
from wrinklefree.training.trainer import Trainer
from wrinklefree.training.update import build_update

log = logging.getLogger(__name__)

CALIBRATION_LINES = 6  # how often the calibration of weights reports
TEACHER_CACHE_DIR = "teacher-cache"  # beside `out`, shared by the runs there


def train(config: RunConfig, student: Student) -> Path:
    """Train the student as config.training says and leave the artifact at config.out.

    Continues an interrupted run in `out`. Raises KeyboardInterrupt after saving when stopped.
    """
    training = config.training
    assert isinstance(training, GradientConfig)
    keep_freed_memory()
    world = current_world()
    progress = checkpointing.find_progress(config, student.parent)
    world.wait()  # nobody may write before all have looked
    hashes = input_hashes(config)
    precision = choose_precision(training)
    check_installed(config)
    if training.compile:
        check_compiler(precision.device)
    inputs = open_inputs(
        config.data,
        student.tokenizer,
        batch_size=training.batch_size,
        seed=training.seed,
        num_sample=training.calibration_rows,
        world=world,
    )
    total_steps = num_steps(training, inputs.rows.train)
    torch.manual_seed(training.seed)

    model, out = student.model, Path(config.out)
    is_ternary = quant_config_of(model) is not None
    if training.calibration_rows > 0:
        set_lambda(model, 1.0)
        if progress is None and world.is_main:
            _calibrate_weights(student, training, inputs.sample)
    if is_ternary:
        set_int8_grad(model, training.int8_grad)
    ramp = lambda_ramp(training, total_steps, start=get_lambda(model)) if is_ternary else None
    if progress is not None:
        log.info("continuing %s at step %d of %d", out, progress.step, total_steps)
        checkpointing.restore_weights(out, model)
    model.to(precision.device)  # type: ignore[arg-type]
    world.copy_from_main(model.parameters())
    freeze(model, training.freeze)
    if training.activation_checkpointing:
        checkpoint_activations(model)
    objective = build_objective(training, model)
    throughput = Throughput(model, objective, precision, training, world)
    teacher = _open_teacher(config, student, objective, inputs, precision)
    apply = shard(model) if world.is_sharded else apply_to(model)
    update = build_update(model, training, total_steps, world)
    if progress is not None:
        checkpointing.restore_optimizers(out, model, update.optimizers)
        update.load_state_dict(progress.update)

    loader, sample = inputs.loader, inputs.sample
    output = Output(config, student, loader, sample, update, total_steps, world, apply, hashes)
    trainer = Trainer(
        model=model,
        objective=objective,
        teacher=teacher,
        loader=inputs.loader,
        evaluation=Evaluation(inputs.rows.evaluation, training.batch_size),
        samples=build_samples(training, student.tokenizer, inputs.sample),
        update=update,
        ramp=ramp,
        precision=precision,
        throughput=throughput,
        total_steps=total_steps,
        config=training,
        save=output.checkpoint,
        world=world,
        apply=apply,
    )
    start_step = progress.step if progress is not None else 0
    with contextlib.closing(inputs.loader) as loader:
        if progress is not None:
            loader.load_state_dict(progress.loader)
        report = MetricsLog(
            out,
            stage=training.stage,
            total_steps=total_steps,
            start_step=start_step,
            trackers=open_trackers(config, start_step) if world.is_main else (),
            is_main=world.is_main,
        )
        # A signal during the last save must not cost it: the run is over anyway.
        with StopRequest() as stop:
            with report as metrics:
                evaluation = trainer.run(metrics, stop, start_step=start_step)
            if isinstance(loader, StreamPart):
                log.info("streamed records: %(skipped)d skipped, %(truncated)d cut", loader.counts)
            output.finish(evaluation)
    return out


def _calibrate_weights(student: Student, training: GradientConfig, rows: TokenRows) -> None:
    """Solve the master weights for the deployed numbers, on the last rows of the data."""
    model, teacher = student.model, _load_teacher(training, student)
    num_layers = int(model.config.num_hidden_layers)
    batch = collate(rows, tuple(range(max(0, len(rows) - training.calibration_rows), len(rows))))

    def tell(layers: int) -> None:
        if layers % math.ceil(num_layers / CALIBRATION_LINES) == 0 or layers == num_layers:
            log.info("solved the ternary weights of %d/%d layers", layers, num_layers)

    calibrate_weights_(model, teacher, calibration_rows_of(batch, model.config), progress=tell)


def _load_teacher(training: GradientConfig, student: Student) -> PreTrainedModel:
    if training.teacher is None:
        raise UsageError(
            f"{training.stage} distils from a teacher; give training.teacher=DIR (a float model)"
        )
    teacher, tokenizer = load_teacher(training.teacher, revision=training.teacher_revision)
    num_rows = int(student.model.config.vocab_size)
    check_tokens(teacher, tokenizer, student.tokenizer, num_rows=num_rows)
    return teacher


def _open_teacher(
    config: RunConfig,
    student: Student,
    objective: Objective,
    inputs: Inputs,
    precision: Precision,
) -> Teacher | CachedTeacher | None:
    training = config.training
    assert isinstance(training, GradientConfig)
    if not objective.needs_teacher:
        return None
    model = _load_teacher(training, student)
    teacher = Teacher(model, objective, student=student.model, precision=precision)
    if not training.cache_teacher:
        return teacher
    if inputs.rows.train is None:
        raise UsageError(
            "training.cache_teacher=true keeps outputs of rows that come again; streamed rows do "
            "not: set it to false, or data.streaming=false for one source that fits in memory"
        )
    directory = Path(config.out).parent / TEACHER_CACHE_DIR
    with current_world().main_first():
        cached = CachedTeacher(teacher, inputs.rows.train, directory)
    log.info("teacher outputs are kept in %s", cached.directory)
    return cached
