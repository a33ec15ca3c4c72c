"""Types of the native module; its sources are in csrc/bindings."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
from numpy.typing import NDArray

class FormatError(ValueError):
    """A file's bytes are not what its format says; names file, field and offset."""

class ModelError(ValueError):
    """A well-formed model, or a request, that the engine cannot run."""

def build_info() -> dict[str, Any]: ...
def cpu_info() -> dict[str, Any]: ...

class TensorInfo:
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def type_id(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def offset(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class GgufFile:
    def __init__(self, path: str) -> None: ...
    @property
    def version(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def tensors(self) -> list[TensorInfo]: ...
    def read(self, name: str) -> NDArray[np.uint8]: ...

class Sampler:
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        top_logprobs: int = 0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: SequenceOf[tuple[int, float]] = (),
    ) -> None: ...
    def observe(self, tokens: SequenceOf[int]) -> None: ...

class Sequence:
    @property
    def length(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def truncate(self, length: int) -> None: ...

class StepItem:
    def __init__(
        self,
        sequence: Sequence,
        tokens: SequenceOf[int],
        sampler: Sampler | None = None,
        logits: str = "none",
    ) -> None: ...
    @property
    def sequence(self) -> Sequence: ...
    @property
    def tokens(self) -> list[int]: ...

class StepOutput:
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> list[tuple[int, float]]: ...
    @property
    def logits(self) -> Any: ...

class Model:
    def __init__(
        self,
        path: str,
        *,
        threads: int = 0,
        context: int = 0,
        act_quant: bool = True,
        layout: str = "auto",
        progress: Callable[[int, int], object] | None = None,
    ) -> None: ...
    @property
    def info(self) -> dict[str, Any]: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    def sequence(self, max_tokens: int) -> Sequence: ...
    def step(self, items: SequenceOf[StepItem]) -> list[StepOutput]: ...
    def layer_io(self, layer: int, hidden: NDArray[np.float32]) -> dict[str, NDArray[Any]]: ...
