"""What a run writes to `out`: checkpoints on the way, the finished artifact at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrinklefree.configs.config import RunConfig
from wrinklefree.data.loader import Batches
from wrinklefree.data.packing import TokenRows
from wrinklefree.models.manifest import Manifest
from wrinklefree.training import checkpointing, continuity
from wrinklefree.training.student import Student
from wrinklefree.training.update import Update


@dataclass(frozen=True, slots=True)
class Output:
    """Everything that goes into the artifacts of one run."""

    config: RunConfig
    student: Student
    loader: Batches
    sample: TokenRows  # its first rows are what continuity is measured on
    update: Update
    total_steps: int

    @property
    def directory(self) -> Path:
        """Where the artifact lies."""
        return Path(self.config.out)

    def checkpoint(self, step: int) -> None:
        """Save the state after `step` finished steps."""
        checkpointing.save_checkpoint(
            self.directory,
            self.student.model,
            self.student.tokenizer,
            self._manifest(step),
            self.update.optimizers,
            checkpointing.Progress(step, self.loader.state_dict(), self.update.state_dict()),
        )

    def finish(self, evaluation: dict[str, float]) -> None:
        """Save the finished artifact with its evaluation and continuity record."""
        model = self.student.model
        model.cpu()  # the next stage verifies there
        record = continuity.record(model, continuity.probe_tokens(self.sample))
        manifest = self._manifest(
            self.total_steps, evaluation=evaluation, **{continuity.METRIC: record}
        )
        checkpointing.save_finished(self.directory, model, self.student.tokenizer, manifest)

    def _manifest(self, step: int, **metrics: Any) -> Manifest:
        return Manifest(
            stage=self.config.training.stage,
            parent=self.student.parent,
            recipe=checkpointing.recipe_of(self.config),
            data_position=self.loader.state_dict(),
            metrics={"steps": step, "total_steps": self.total_steps, **metrics},
        )
