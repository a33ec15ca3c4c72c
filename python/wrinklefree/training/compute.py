"""Ways to run the same decoder layers: activations computed twice, or compiled code."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from wrinklefree.errors import UsageError
from wrinklefree.models.decoder import decoder_layers


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only each layer's input for the backward pass, which computes the layer again.

    Same numbers, about a third more time, memory of one layer's activations instead of all.
    Not reentrant: gradients also flow through states that were observed inside a layer.
    """
    for layer in decoder_layers(model):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def check_compiler(device: torch.device) -> None:
    """Raises UsageError when torch.compile could not make code for this device."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("training.compile=true needs triton on a CUDA device: pip install triton")
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UsageError(
            f"training.compile=true needs a C++ compiler and {compiler} is not there: install it, "
            "name another with CXX=PROGRAM, or leave compile off"
        )


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the decoder layers: code for one serves all. Sums come in another order, so the last
    bits differ. Lambda must not change any more: its value is part of the code."""
    for layer in decoder_layers(model):
        layer.compile()


@contextlib.contextmanager
def as_written(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block compiled layers run as written: numbers are those of the artifact, and no
    code is made for shapes and modes that training does not have."""
    layers = list(decoder_layers(model))
    compiled = [layer._compiled_call_impl for layer in layers]
    drop_compiled(model)
    try:
        yield
    finally:
        for layer, implementation in zip(layers, compiled, strict=True):
            layer._compiled_call_impl = implementation


def drop_compiled(model: PreTrainedModel) -> None:
    """Run the layers as written again."""
    for layer in decoder_layers(model):
        layer._compiled_call_impl = None
