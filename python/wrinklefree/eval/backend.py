"""What an evaluation asks of a model, whichever code runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wrinklefree.engine.results import Score
from wrinklefree.errors import UsageError

BACKENDS = ("auto", "torch", "engine")


@dataclass(frozen=True, slots=True)
class Question:
    """Token ids of a prompt and of its possible continuations."""

    prompt: list[int]
    choices: list[list[int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text; it is finished when the model ended it itself."""

    text: str
    is_finished: bool


class Backend(Protocol):
    """A model and its tokenizer, run by torch, by the native engine or by a server."""

    name: str
    max_context: int  # most tokens the model was made for

    def encode(self, text: str, *, add_special: bool) -> list[int]: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int | None:
        """The tokenizer's own end token; None where it has none or a server does not tell."""

    def score(self, questions: Sequence[Question]) -> list[list[Score]]:
        """Per question the log-likelihood of each choice after the prompt."""
        ...

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        """log p(ids[t + 1] | ids[..t]) for t = 0 .. len(ids) - 2, in nats."""
        ...

    def generate(
        self, prompts: Sequence[list[int]], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> list[Answer]:
        """Greedy answers to prompts of token ids, each up to an end token or a stop string."""
        ...

    def close(self) -> None:
        """Frees the model; nothing can be asked after."""


def open_backend(model: str, *, backend: str = "auto", revision: str | None = None) -> Backend:
    """The model named `model`: a .gguf runs in the engine, a directory or hub id in torch, a URL
    is a server's.

    `backend` "engine" runs a directory in the engine. Imports only what the chosen one needs.
    Raises UsageError for a model that is not there, or that `backend` or `revision` do not fit.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    is_server = model.startswith(("http://", "https://"))
    if revision is not None and (is_server or Path(model).exists()):
        raise UsageError(f"{model} is no model of the hub: it has no --revision {revision}")
    if is_server:
        if backend != "auto":
            raise UsageError(f"{model} is a server: --backend {backend} cannot run it")
        from wrinklefree.eval.server_backend import ServerBackend

        return ServerBackend(model)
    path = Path(model)
    if path.is_file():
        if backend == "torch":
            raise UsageError(f"{model} is a file: torch runs model directories; use the engine")
        backend = "engine"
    if backend == "engine":
        from wrinklefree.eval.engine_backend import EngineBackend

        return EngineBackend(path)
    from wrinklefree.eval.torch_backend import TorchBackend

    return TorchBackend(model, revision=revision)
