"""What a run writes to `out`: checkpoints on the way, the finished artifact at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wrinklefree.configs.config import RunConfig
from wrinklefree.data.loader import Batches
from wrinklefree.data.packing import TokenRows
from wrinklefree.models.manifest import Manifest
from wrinklefree.training import checkpointing, continuity, input_files
from wrinklefree.training.distributed import World
from wrinklefree.training.sharding import Apply
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
    world: World
    apply: Apply
    input_hashes: dict[str, str]

    @property
    def directory(self) -> Path:
        """Where the artifact lies."""
        return Path(self.config.out)

    def checkpoint(self, step: int, position: dict[str, Any]) -> None:
        """Save the state after `step` finished steps, with the loader's position then. All
        processes must call it together."""
        manifest = self._manifest(step, position)
        progress = checkpointing.Progress(step, position, self.update.state_dict())
        checkpointing.save_checkpoint(
            self.directory,
            self.student.model,
            self.student.tokenizer,
            manifest,
            self.update.optimizers,
            progress,
        )
        self.world.wait()

    def finish(self, evaluation: dict[str, float]) -> None:
        """Save the finished artifact with its evaluation and continuity record. All processes must
        call it together."""
        model = self.student.model
        position = self.loader.state_dict()
        manifest = self._manifest(self.total_steps, position, evaluation=evaluation)
        if not self.world.is_sharded:
            model.cpu()  # the next stage verifies there
        probe = continuity.probe_tokens(self.sample)
        record = self.apply(lambda model: continuity.record(model, probe))
        manifest = replace(manifest, metrics={**manifest.metrics, continuity.METRIC: record})
        checkpointing.save_finished(self.directory, model, self.student.tokenizer, manifest)
        self.world.wait()

    def _manifest(self, step: int, position: dict[str, Any], **metrics: Any) -> Manifest:
        return Manifest(
            stage=self.config.training.stage,
            parent=self.student.parent,
            recipe=checkpointing.recipe_of(self.config),
            data_position=position,
            metrics={
                "steps": step,
                "total_steps": self.total_steps,
                input_files.METRIC: self.input_hashes,
                **metrics,
            },
        )
