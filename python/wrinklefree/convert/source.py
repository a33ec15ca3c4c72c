"""What every writer of this package asks of a model, whatever it is stored in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wrinklefree.convert import gguf_names as names
from wrinklefree.convert.hyper_parameters import check_sizes
from wrinklefree.convert.ternary_check import (
    Ternary,
    TernaryError,
    exact_ternary,
    refuse_not_ternary,
    ternary_error,
)
from wrinklefree.engine.default_sampling import DefaultSampling
from wrinklefree.errors import FormatError


class Source(Protocol):
    """A model under the tensor names of a wrinklefree artifact, one tensor in memory at a time.

    `config` is config.json of the base model (llama, qwen2 or qwen3), without quantization_config;
    `kept_float` are modules of the blocks that stay float. `is_ternarized`: the codes are the
    user's wish (`--ternarize`), not what the model was trained for.
    """

    path: Path
    config: dict[str, Any]
    subln: str
    subln_eps: float
    kept_float: tuple[str, ...]
    stage: str
    default_sampling: DefaultSampling
    is_ternarized: bool

    @property
    def is_float_model(self) -> bool:
        """True for a GGUF file without ternary projections, whose values are dequantized."""
        ...

    @property
    def names(self) -> list[str]: ...

    @property
    def num_bytes(self) -> int: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def is_ternary(self, name: str) -> bool:
        """Whether this tensor is a projection that runs as codes and one scale."""
        ...

    def ternary(self, name: str) -> Ternary:
        """Codes and scale of a projection for which `is_ternary` holds."""
        ...

    def masters(self, name: str) -> np.ndarray:
        """Float32 weights of such a projection whose absmean quantization gives `ternary`."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Float32 values as they are stored, or dequantized."""
        ...

    def tokenizer_keys(self) -> dict[str, Any]:
        """The tokenizer as `tokenizer.*` keys of a GGUF file."""
        ...

    def write_tokenizer(self, directory: Path) -> None:
        """The tokenizer and generation_config.json as Hugging Face files."""
        ...


def check_tensors(source: Source) -> None:
    """Raises FormatError that lists every tensor without a GGUF name, or every missing one, and for
    sizes that no model has."""
    check_sizes(source.config)
    names.map_all(source.names, to_gguf=True)
    expected = names.expected_hf_names(source.config, source.subln, source.kept_float)
    missing = sorted(expected - set(source.names))
    if missing:
        raise FormatError(f"{source.path} lacks {len(missing)} tensor(s): {', '.join(missing)}")


def projections(source: Source) -> list[str]:
    return [name for name in source.names if names.is_projection(name)]


def measure(source: Source) -> list[TernaryError]:
    """How far from ternary each projection is, for `--ternarize`."""
    return [ternary_error(name, source.read(name)) for name in projections(source)]


def refuse_float_model(source: Source) -> None:
    """Raises FormatError that names every projection which is not {-s, 0, s}."""
    errors: list[TernaryError] = []
    for name in projections(source):
        values = source.read(name)
        if exact_ternary(values) is None:
            errors.append(ternary_error(name, values))
    refuse_not_ternary(errors, str(source.path))
