"""Checks on the weight files of a model directory before anything is loaded from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from wrinklefree.errors import FormatError

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def weight_files(directory: Path) -> list[Path]:
    """Safetensors files of a model directory.

    Raises FormatError if there are none (pickled weights are never read), or if the index names a
    file that is missing or outside of the directory.
    """
    if (directory / INDEX_NAME).is_file():
        names = _indexed_names(directory / INDEX_NAME)
    elif (directory / WEIGHTS_NAME).is_file():
        names = [WEIGHTS_NAME]
    else:
        pickled = [file.name for pattern in PICKLE_PATTERNS for file in directory.glob(pattern)]
        found = f"; pickles ({', '.join(sorted(pickled))}) are never read" if pickled else ""
        raise FormatError(f"{directory} has no {WEIGHTS_NAME}{found}")
    files = [directory / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FormatError(f"{directory} lacks {', '.join(missing)}")
    for file in files:
        _check_inside(file, directory)
    return files


def check_weights(model: PreTrainedModel, files: Iterable[str | Path]) -> None:
    """Raises FormatError listing every tensor that is missing, unknown or of another shape."""
    stored: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    stored[name] = tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{file} is not a valid safetensors file: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    if problems := _differences(expected, stored, tied):
        raise FormatError(f"the weights do not fit the model: {'; '.join(problems)}")


def master_weights(model: PreTrainedModel, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """State dict as stored: float32, contiguous, on the CPU, each tied tensor once.

    Divided tensors (FSDP2) become whole, one after the other: all processes must call it together;
    one that does not keep them gets none and never holds more than one.
    """
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    weights = {}
    for name, tensor in model.state_dict().items():
        if name not in tied:
            whole = _whole(tensor.detach())
            if keep:
                weights[name] = whole.to("cpu", torch.float32).contiguous()
    return weights


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    whole: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def _differences(
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, tuple[int, ...]],
    tied: set[str],
) -> list[str]:
    missing = sorted(expected.keys() - stored.keys() - tied)
    unknown = sorted(stored.keys() - expected.keys())
    reshaped = [
        f"{name} is {list(stored[name])}, expected {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in stored and stored[name] != shape
    ]
    groups = (("missing", missing), ("unexpected", unknown), ("wrong shape", reshaped))
    return [f"{title}: {', '.join(names)}" for title, names in groups if names]


def _indexed_names(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FormatError(f"{index} is not a valid weight index: {error!r}") from error
    for name in names:
        is_plain = isinstance(name, str) and Path(name).name == name
        if not is_plain or not name.endswith(".safetensors"):
            raise FormatError(f"{index} names {name!r}; only plain .safetensors names are allowed")
    return sorted(names)


def _check_inside(file: Path, directory: Path) -> None:
    """A link may lead only to where a hub cache keeps its files: snapshots/REV -> ../../blobs."""
    allowed = (directory.resolve(), directory.resolve().parent.parent / "blobs")
    if not any(file.resolve().is_relative_to(folder) for folder in allowed):
        raise FormatError(f"{file} is a link out of its directory")
