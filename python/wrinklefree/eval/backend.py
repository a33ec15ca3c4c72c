"""What an evaluation asks of a model, whichever code runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wrinklefree.errors import UsageError


@dataclass(frozen=True, slots=True)
class Question:
    """Token ids of a prompt and of its possible continuations."""

    prompt: list[int]
    choices: list[list[int]]


class Backend(Protocol):
    """A model and its tokenizer, run by torch or by the native engine."""

    name: str
    max_context: int  # most tokens the model was made for

    def encode(self, text: str, *, add_special: bool) -> list[int]: ...

    @property
    def bos_id(self) -> int | None: ...

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Per question the summed log-likelihood, in nats, of each choice after the prompt."""
        ...

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """log p(ids[t + 1] | ids[..t]) for t = 0 .. len(ids) - 2, in nats."""
        ...


def open_backend(model: Path, *, backend: str = "auto", batch: int = 8) -> Backend:
    """The model at `model`: a .gguf runs in the engine, a directory in torch unless told otherwise.

    Imports only what the chosen backend needs. Raises UsageError for a path that is neither.
    """
    if model.is_file():
        if backend == "torch":
            raise UsageError(f"{model} is a file: torch runs model directories; use the engine")
        backend = "engine"
    elif not model.is_dir():
        raise UsageError(f"{model} does not exist; give a model directory or a .gguf file")
    if backend == "engine":
        from wrinklefree.eval.engine_backend import EngineBackend

        return EngineBackend(model)
    from wrinklefree.eval.torch_backend import TorchBackend

    return TorchBackend(model, batch=batch)
