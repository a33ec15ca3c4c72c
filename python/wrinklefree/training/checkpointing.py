"""The output directory of a run: finished artifacts, and unfinished ones with `state/` inside.

A checkpoint is an artifact like any other plus `state/`: optimizer/ (see `optimizer_state`) and
progress.json (step, loader position, clipping statistics). Everything is written to a temporary
directory that then takes the place of the old one.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrinklefree.configs.config import RunConfig
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models.card import write_card
from wrinklefree.models.checkpoint import is_artifact, write_artifact
from wrinklefree.models.manifest import STATE_DIR, Manifest, read_manifest
from wrinklefree.models.staging import staged_directory
from wrinklefree.models.weights import WEIGHTS_NAME, master_weights
from wrinklefree.training.distributed import current_world
from wrinklefree.training.input_files import changed_inputs, input_hashes
from wrinklefree.training.metrics import METRICS_NAME, PARTIAL_NAME, num_tokens
from wrinklefree.training.optimizer_state import load_moments, save_moments

MOMENTS = "optimizer"
# Settings that may differ between an interrupted run and its continuation.
FREE_SETTINGS = (
    *("out", "resume", "tracking", "data.workers", "distributed.kind"),
    *("training.eval_every", "training.save_every", "training.shares_every"),
    *("training.sample_every", "training.sample_prompts", "training.sample_tokens"),
    *("training.activation_checkpointing", "training.peak_tflops"),
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an interrupted run stands: finished steps, loader position, state of the update."""

    step: int
    loader: dict[str, Any]
    update: dict[str, Any]


def recipe_of(config: RunConfig) -> dict[str, Any]:
    """The settings of a run as JSON values, for the manifest."""
    recipe = json.loads(json.dumps(dataclasses.asdict(config)))
    assert isinstance(recipe, dict)
    return recipe


def find_progress(config: RunConfig, parent: str | None) -> Progress | None:
    """Where to continue in `config.out`; None to start at step 0.

    Raises UsageError when `out` holds something else, or a run with other settings or inputs.
    """
    out = Path(config.out)
    if not _holds_same_run(config, parent) or not (out / STATE_DIR).is_dir():
        return None
    try:
        fields = json.loads((out / STATE_DIR / "progress.json").read_text(encoding="utf-8"))
        return Progress(int(fields["step"]), dict(fields["loader"]), dict(fields["update"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{out}/{STATE_DIR} is damaged ({error}); start anew with resume=never"
        ) from None


def is_finished(config: RunConfig, parent: str | None) -> bool:
    """Whether `out` already is the artifact that this run would make."""
    return _holds_same_run(config, parent) and not (Path(config.out) / STATE_DIR).is_dir()


def _holds_same_run(config: RunConfig, parent: str | None) -> bool:
    out = Path(config.out)
    leftovers = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if leftovers - {METRICS_NAME, PARTIAL_NAME} and not is_artifact(out):
        raise UsageError(f"out={out} exists and is not an artifact: remove it or choose another")
    if config.resume == "never" or not is_artifact(out):
        return False
    manifest = read_manifest(out)
    differences = _differences(manifest.recipe, recipe_of(config))
    if manifest.parent != parent:
        differences.append("the artifact it starts from has changed")
    changed = changed_inputs(manifest.metrics, input_hashes(config))
    differences += [f"the files of {path} have changed" for path in changed]
    if differences:
        raise UsageError(
            f"out={out} holds another run ({'; '.join(differences)}); choose another "
            "out, or resume=never to replace it"
        )
    return True


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        name, before, now = prefix + key, old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now, f"{name}.")
        elif before != now and name not in FREE_SETTINGS:
            found.append(f"{name} was {before}, now {now}")
    return found


def save_checkpoint(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    manifest: Manifest,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
) -> None:
    """Replace `out` by an artifact that a run can continue from. All processes must call it
    together: each writes its part of the moments, the main one everything else."""
    weights = master_weights(model, keep=current_world().is_main)
    with _staged_together(out) as staged:
        save_moments(staged / STATE_DIR / MOMENTS, model, optimizers)
        if not current_world().is_main:
            return
        write_artifact(model, tokenizer, staged, manifest, weights)
        _copy_metrics(out, staged)
        (staged / STATE_DIR / "progress.json").write_text(
            json.dumps(dataclasses.asdict(progress)), encoding="utf-8"
        )


@contextmanager
def _staged_together(out: Path) -> Iterator[Path]:
    """`staged_directory` of the main process, for all."""
    world = current_world()
    with staged_directory(out) if world.is_main else nullcontext() as staged:
        yield next(path for path in world.collect(staged) if path is not None)


def save_finished(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    manifest: Manifest,
) -> None:
    """Replace `out` by the finished artifact, with its model card and without `state/`. All
    processes must call it together; the main one writes."""
    weights = master_weights(model, keep=current_world().is_main)
    if not current_world().is_main:
        return
    with staged_directory(out) as staged:
        written = write_artifact(model, tokenizer, staged, manifest, weights)
        _copy_metrics(out, staged)
        write_card(staged, written, tokens=num_tokens(staged / METRICS_NAME))


def restore_weights(out: Path, model: PreTrainedModel) -> None:
    """Overwrite the parameters by those of the checkpoint in `out`."""
    tensors = load_file(out / WEIGHTS_NAME)
    parameters = dict(model.named_parameters())
    if parameters.keys() != tensors.keys():
        odd = ", ".join(sorted(parameters.keys() ^ tensors.keys()))
        raise FormatError(f"{out}/{WEIGHTS_NAME} does not fit the model: {odd}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def restore_optimizers(
    out: Path, model: PreTrainedModel, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Load the moments and the torch RNG. All processes must call it together."""
    load_moments(out / STATE_DIR / MOMENTS, model, optimizers)


def _copy_metrics(out: Path, staged: Path) -> None:
    if (out / METRICS_NAME).is_file():
        shutil.copyfile(out / METRICS_NAME, staged / METRICS_NAME)
