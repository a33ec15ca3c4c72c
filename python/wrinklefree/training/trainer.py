"""The training loop that all stages share: evaluate, save, step, log, next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.loader import Batch, Batches
from wrinklefree.models.surgery import set_lambda
from wrinklefree.training.compute import as_written, compile_layers, drop_compiled
from wrinklefree.training.distributed import World
from wrinklefree.training.evaluation import Evaluation
from wrinklefree.training.finite import gradient_error, loss_error, norm_error, watch_gradients
from wrinklefree.training.gradient_shares import gradient_shares
from wrinklefree.training.interrupt import StopRequest
from wrinklefree.training.metrics import MetricsLog
from wrinklefree.training.objective import Counts, Objective, TeacherOutputs, count
from wrinklefree.training.precision import Precision
from wrinklefree.training.samples import Samples
from wrinklefree.training.schedule import LambdaRamp
from wrinklefree.training.sharding import Apply
from wrinklefree.training.throughput import Throughput
from wrinklefree.training.update import Update

log = logging.getLogger(__name__)

Position = dict[str, Any]
SHOWN = ("loss", "lambda", "lr", "tokens_per_s", "mfu", "data_wait")


@dataclass(frozen=True, slots=True)
class Trainer:
    """Everything one loop needs. `ramp` is None for a float model."""

    model: PreTrainedModel
    objective: Objective
    teacher: Callable[[Batch], TeacherOutputs] | None
    loader: Batches
    evaluation: Evaluation
    samples: Samples
    update: Update
    ramp: LambdaRamp | None
    precision: Precision
    throughput: Throughput
    total_steps: int
    config: GradientConfig
    save: Callable[[int, Position], None]  # given the number of finished steps, and the loader's
    world: World
    apply: Apply  # to the model

    def run(
        self, metrics: MetricsLog, stop: StopRequest, *, start_step: int = 0
    ) -> dict[str, float]:
        """Train from `start_step` to the end; returns the last evaluation.

        Saves and raises KeyboardInterrupt when stopped, before a step or between two of its
        micro-batches, whose gradients are dropped.
        """
        self.model.train()
        micro_batches = self.world.share(self.config.accumulation)
        compile_step = max(start_step, self.ramp.ramp_steps if self.ramp is not None else 0)
        for step in range(start_step, self.total_steps):
            if self.ramp is not None:
                set_lambda(self.model, self.ramp.at(step))
            is_first = step == start_step
            if step == 0 or (not is_first and _is_multiple(step, self.config.eval_every)):
                self._evaluate(metrics, step)
            if (step == 0 or not is_first) and _is_multiple(step, self.config.sample_every):
                self._write_samples(metrics, step)

            position, random_state = self.loader.state_dict(), torch.get_rng_state()
            if not is_first and _is_multiple(step, self.config.save_every):
                self.save(step, position)
            if self.config.compile and step == compile_step:
                compile_layers(self.model)
            values = self._step(step, micro_batches, stop)
            if values is None:
                torch.set_rng_state(random_state)
                self.save(step, position)
                log.info("saved at step %d; the same command continues from there", step)
                raise KeyboardInterrupt

            metrics.write("train", step, **values)
            metrics.show(step, **{name: values[name] for name in SHOWN if name in values})

        drop_compiled(self.model)
        if self.ramp is not None:
            set_lambda(self.model, 1.0)
        self.model.train(False)
        evaluation = self._evaluate(metrics, self.total_steps)
        if self.config.sample_every > 0:
            self._write_samples(metrics, self.total_steps)
        return evaluation

    def _evaluate(self, metrics: MetricsLog, step: int) -> dict[str, float]:
        evaluation = {}
        if self._is_observing:
            with as_written(self.model):
                evaluation = self.apply(self.evaluation.measure)
        metrics.write("eval", step, **evaluation)
        return evaluation

    def _write_samples(self, metrics: MetricsLog, step: int) -> None:
        if self._is_observing:
            with as_written(self.model):
                texts = self.apply(self.samples.write)
            metrics.write_samples(step, texts)

    @property
    def _is_observing(self) -> bool:
        """The main process evaluates for all, unless that takes the parts of all."""
        return self.world.is_main or self.world.is_sharded

    def _step(self, step: int, micro_batches: int, stop: StopRequest) -> dict[str, float] | None:
        """One optimizer step; returns what to log, or None when stopped before weights change.
        Raises NonFiniteError, in all processes, before weights change."""
        began = time.perf_counter()
        read = [next(self.loader) for _ in range(micro_batches)]
        waited = time.perf_counter() - began
        batches = [batch.to(self.precision.device) for batch in read]
        counts = count(batches, self.world)
        accumulated = self._accumulate(step, batches, counts, stop)
        if accumulated is None:
            return None
        sums, shares = accumulated
        sums = dict(zip(sums, self.world.sum(sums.values()), strict=True))

        norm = self.update.sum_gradients()
        if not torch.isfinite(norm):
            self._explain_gradients(step, norm, batches, counts)
        updated = self.update.apply(step, norm)
        seconds = time.perf_counter() - began
        return {
            "loss": sum(sums.values()),
            **sums,
            **updated,
            **({"lambda": self.ramp.at(step)} if self.ramp is not None else {}),
            **shares,
            "labels": counts.labels,
            **self.throughput.values(batches, counts, seconds),
            "data_wait": waited / seconds,
        }

    def _accumulate(
        self, step: int, batches: list[Batch], counts: Counts, stop: StopRequest
    ) -> tuple[dict[str, float], dict[str, float]] | None:
        """Gradients of these batches; their loss terms, and each term's share of the gradient. None
        when some process is asked to stop before one of them.

        Raises NonFiniteError in all processes.
        """
        sums: dict[str, float] = {}
        losses = []
        shares: dict[str, float] = {}
        for batch in batches:
            if self.world.any(stop.is_set):
                return None
            teacher = self.teacher(batch) if self.teacher is not None else None
            with self.precision.autocast(), self.update.watching(batch):
                terms = self._terms(batch, teacher, counts)
            loss = torch.stack(list(terms.values())).sum()
            losses.append(loss.detach())
            if not shares and _is_multiple(step, self.config.shares_every):
                shares = gradient_shares(terms, self.model.parameters())
            loss.backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                sums[f"loss_{name}"] = sums.get(f"loss_{name}", 0.0) + term.item()
        self._check_losses(step, losses, batches)
        return sums, shares

    def _terms(
        self, batch: Batch, teacher: TeacherOutputs | None, counts: Counts
    ) -> dict[str, torch.Tensor]:
        return self.apply(lambda model: self.objective.terms(model, batch, teacher, counts))

    def _check_losses(self, step: int, losses: list[torch.Tensor], batches: list[Batch]) -> None:
        """All processes look together: a divided model answers to all of them or none."""
        bad = [number for number, loss in enumerate(losses) if not torch.isfinite(loss)]
        if not self.world.any(bool(bad)):
            return
        drop_compiled(self.model)  # as in _explain_gradients
        first = bad[0] if bad else 0
        error = self.apply(
            lambda model: loss_error(losses[first], model, batches[first], step=step)
        )
        self.world.raise_together(error if bad else None)

    def _explain_gradients(
        self, step: int, norm: torch.Tensor, batches: list[Batch], counts: Counts
    ) -> None:
        """Raise in all processes: what the gradient of each batch was before they were summed is
        found by computing it again."""
        drop_compiled(self.model)  # compiled layers do not call what watches their modules
        errors = []
        for batch in batches:
            teacher = self.teacher(batch) if self.teacher is not None else None
            with watch_gradients(self.model) as found:
                with self.precision.autocast():
                    terms = self._terms(batch, teacher, counts)
                torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            if found:
                errors.append(gradient_error(found[0], batch, step=step))
        self.world.raise_together(errors[0] if errors else None)
        raise norm_error(norm, step=step)


def _is_multiple(step: int, every: int) -> bool:
    """Whether something that happens `every` so many steps (0: never) happens at this one."""
    return every > 0 and step % every == 0
