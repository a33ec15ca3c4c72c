"""Tracking services that get what metrics.jsonl gets: TensorBoard and W&B, both extras."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from wrinklefree.configs.config import RunConfig
from wrinklefree.errors import UsageError


class Tracker(Protocol):
    """A place for the numbers of a run."""

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; `kind` is "train" or "eval"."""

    def write_text(self, step: int, samples: list[dict[str, str]]) -> None:
        """Prompts and what the model made of them."""

    def close(self) -> None:
        """Send or write what is left."""


class _TensorBoard:
    """Event files in `tensorboard/<name of out>` beside `out`, which checkpoints replace."""

    def __init__(self, config: RunConfig, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        out = Path(config.out)
        # What an interrupted run wrote after its last checkpoint is hidden: it comes again.
        self._writer = SummaryWriter(
            str(out.parent / "tensorboard" / out.name), purge_step=start_step
        )

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def write_text(self, step: int, samples: list[dict[str, str]]) -> None:
        for number, sample in enumerate(samples):
            text = f"**{sample['prompt']}**{sample['text']}"
            self._writer.add_text(f"sample/{number}", text, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of the project "wrinklefree", the same one again when a run is continued. Where it goes
    is W&B's own setting (WANDB_MODE=offline keeps it in `wandb/` beside `out`)."""

    def __init__(self, config: RunConfig, start_step: int) -> None:
        import wandb

        from wrinklefree.training.checkpointing import recipe_of

        out = Path(config.out)
        self._run = wandb.init(
            project="wrinklefree",
            name=out.name,
            id=hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16],
            resume="allow" if start_step > 0 else None,
            dir=str(out.parent),
            config=recipe_of(config),
        )

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def write_text(self, step: int, samples: list[dict[str, str]]) -> None:
        texts = {f"sample/{i}": s["prompt"] + s["text"] for i, s in enumerate(samples)}
        self._run.log(texts, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[RunConfig, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}


def check_installed(config: RunConfig) -> None:
    """Raises UsageError for a tracker that is not installed, to ask before any work."""
    for name in config.tracking:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UsageError(
                f'tracking=[{name}] needs the package {name}: pip install "wrinklefree[track]"'
            ) from None


def open_trackers(config: RunConfig, start_step: int) -> list[Tracker]:
    """The trackers of a run that begins or goes on at `start_step`."""
    return [TRACKERS[name](config, start_step) for name in config.tracking]
