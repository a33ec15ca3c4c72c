"""Moments of the optimizers on disk: a distributed checkpoint of torch (DCP) in safetensors files.

Each process writes the shards it holds and reads those it needs, so no process ever holds the
moments of the whole model, and the number of processes may change. What all have alike (without
FSDP2: everything) the main process writes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from wrinklefree.errors import FormatError
from wrinklefree.training.distributed import current_world

RNG = "torch_rng"

Optimizers = Sequence[torch.optim.Optimizer]


def save_moments(directory: Path, model: nn.Module, optimizers: Optimizers) -> None:
    """Write moments and the torch RNG to a new directory. All processes must call it together."""
    names: dict[torch.Tensor, str] = {
        parameter: name for name, parameter in model.named_parameters()
    }
    tensors = {RNG: torch.get_rng_state()}
    for optimizer in optimizers:
        for parameter, moments in optimizer.state.items():
            for key, value in moments.items():
                tensors[f"{key}.{names[parameter]}"] = value.detach()
    with _alone_or_together() as alone:
        save(
            tensors,
            storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True),
            planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),
            no_dist=alone,
        )


def load_moments(directory: Path, model: nn.Module, optimizers: Optimizers) -> None:
    """Give moments to the optimizers that own their parameters, and set the torch RNG. All
    processes must call it together.

    Raises FormatError when the files are damaged or of another model.
    """
    owners = {
        name: (optimizer, parameter)
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        if any(parameter is owned for owned in _owned(optimizer))
    }
    reader = HuggingFaceStorageReader(str(directory))
    try:
        stored = reader.read_metadata().state_dict_metadata
        tensors = {}
        for key, metadata in stored.items():
            assert isinstance(metadata, TensorStorageMetadata)
            parameter = owners[_name(key)][1] if key != RNG else None
            tensors[key] = _place_for(metadata, parameter)
        with _alone_or_together() as alone:
            load(tensors, storage_reader=reader, no_dist=alone)
        torch.set_rng_state(tensors.pop(RNG))
    except KeyError as error:
        raise FormatError(
            f"{directory} is of another model: {error} is unknown or absent"
        ) from None
    except (CheckpointException, SafetensorError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise FormatError(
            f"{directory} is damaged ({reason}); start anew with resume=never"
        ) from error
    for key, value in tensors.items():
        optimizer, parameter = owners[_name(key)]
        optimizer.state[parameter][key.partition(".")[0]] = value


@contextlib.contextmanager
def _alone_or_together() -> Iterator[bool]:
    """Whether this is the only process. DCP takes that for a mistake and warns each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* in a single process")
        yield current_world().size == 1


def _owned(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _name(key: str) -> str:
    return key.partition(".")[2]


def _place_for(metadata: TensorStorageMetadata, parameter: nn.Parameter | None) -> torch.Tensor:
    """An empty tensor to read into: divided as the parameter is if it has its shape."""
    dtype = metadata.properties.dtype
    if parameter is None:
        return torch.empty(metadata.size, dtype=dtype)
    # The step counter too lies where AdamW(fused=True) keeps it: with its parameter.
    if metadata.size == parameter.shape:
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    return torch.empty(metadata.size, dtype=dtype, device=parameter.device)
