"""The artifact: the one directory that passes between training, conversion, engine and evaluation.

config.json (with quantization_config), model.safetensors (float32 masters), generation_config.json,
tokenizer files, wrinklefree.json (see `Manifest`) and README.md (see `write_card`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models.card import write_card
from wrinklefree.models.manifest import MANIFEST_NAME, Manifest, read_manifest
from wrinklefree.models.staging import staged_directory
from wrinklefree.models.surgery import get_lambda, quant_config_of
from wrinklefree.models.teacher import load_strictly, load_tokenizer
from wrinklefree.models.weights import WEIGHTS_NAME, master_weights


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an artifact holds; the model is float32 and in eval mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    manifest: Manifest


def is_artifact(path: str | Path) -> bool:
    """Whether path is a directory that `load_artifact` would try to read."""
    return (Path(path) / MANIFEST_NAME).is_file() and (Path(path) / "config.json").is_file()


def save_artifact(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    path: str | Path,
    manifest: Manifest,
) -> None:
    """Write an artifact completely or not at all, replacing an older artifact at `path`.

    A float model (the fine-tuned teacher) is written without quantization_config.
    Raises UsageError if something else is at `path`.
    """
    target = Path(path)
    is_empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not is_artifact(target) and not is_empty:
        raise UsageError(f"{path} exists and is not an artifact: remove it or choose another path")
    with staged_directory(target) as staged:
        write_card(staged, write_artifact(model, tokenizer, staged, manifest))


def write_artifact(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    directory: Path,
    manifest: Manifest,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Manifest:
    """The files of an artifact, for a caller that stages more beside them (`staged_directory`).

    `weights` is `master_weights(model)`, if they had to be gathered before. Returns the manifest as
    written, with what only the model knows.
    """
    tensors = dict(weights) if weights is not None else master_weights(model)
    save_file(tensors, directory / WEIGHTS_NAME, metadata={"format": "pt"})
    _write_config(model, directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    quant = quant_config_of(model)
    if quant is not None:
        manifest = replace(manifest, lam=get_lambda(model), subln=quant.subln)
    text = json.dumps(manifest.to_json(), indent=2, allow_nan=False)
    (directory / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
    return manifest


def load_artifact(path: str | Path, *, device: torch.device | str = "cpu") -> Loaded:
    """Model, tokenizer and manifest of an artifact.

    Raises UsageError if path is no directory, FormatError if it is not a complete artifact of a
    known schema whose parts agree; missing, unexpected and misshapen tensors are listed together.
    """
    if not Path(path).is_dir():
        raise UsageError(f"{path}: no such directory")
    manifest = read_manifest(path)
    model = load_strictly(path, dtype=torch.float32)
    quant = quant_config_of(model)
    if quant is not None and (quant.lam, quant.subln) != (manifest.lam, manifest.subln):
        raise FormatError(
            f"{path}: config.json says lambda {quant.lam} and SubLN {quant.subln!r}, "
            f"{MANIFEST_NAME} says {manifest.lam} and {manifest.subln!r}"
        )
    return Loaded(model.to(device), load_tokenizer(path), manifest)  # type: ignore[arg-type]


def _write_config(model: PreTrainedModel, directory: Path) -> None:
    fields = model.config.to_diff_dict()
    fields["architectures"] = [type(model).__name__]
    fields["dtype"] = "float32"
    text = json.dumps(fields, indent=2, sort_keys=True, default=str)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
