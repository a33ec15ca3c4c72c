"""What a model file or directory holds: metadata, types, and how ternary its projections are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree import _engine
from wrinklefree.convert import gguf_names as names
from wrinklefree.convert.codec import decode, dense_values
from wrinklefree.convert.hf_source import HfSource, Projections
from wrinklefree.convert.ternary_check import (
    Ternary,
    exact_ternary,
    quantize_master,
    ternary_error,
)
from wrinklefree.convert.to_gguf import Progress, silent
from wrinklefree.convert.types import ALL_TYPES, TERNARY_TYPES
from wrinklefree.errors import FormatError, UsageError

_LAYER = re.compile(r"(?:blk|model\.layers)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Codes:
    """How often each code occurs in a ternary matrix, and its scale."""

    minus: int
    zero: int
    plus: int
    scale: float


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor as it is stored.

    A ternary projection has `codes`. `relative_error` is |W - s Q| / |W| of absmean ternarization:
    of the masters in an artifact, and what it would cost a float projection. Tensors that are no
    projections have neither.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    num_bytes: int
    codes: Codes | None = None
    relative_error: float | None = None

    @property
    def num_parameters(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def layer(self) -> int | None:
        """Number of the block that the tensor belongs to."""
        found = _LAYER.match(self.name)
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything `inspect_model` finds."""

    format: str
    num_bytes: int
    metadata: dict[str, Any]
    tensors: list[TensorFacts]

    @property
    def code_shares(self) -> tuple[float, float, float] | None:
        """Shares of the codes -1, 0 and 1 in all ternary projections, None if there are none."""
        counts = np.sum([_counts(t.codes) for t in self.tensors if t.codes], axis=0)
        if not np.any(counts):
            return None
        minus, zero, plus = counts / counts.sum()
        return float(minus), float(zero), float(plus)

    @property
    def layer_codes(self) -> dict[int, tuple[int, int, int]]:
        """Counts of the codes -1, 0 and 1 by layer."""
        layers: dict[int, tuple[int, int, int]] = {}
        for tensor in self.tensors:
            if tensor.codes and tensor.layer is not None:
                before = layers.get(tensor.layer, (0, 0, 0))
                minus, zero, plus = _counts(tensor.codes)
                layers[tensor.layer] = (before[0] + minus, before[1] + zero, before[2] + plus)
        return dict(sorted(layers.items()))

    def to_json(self) -> dict[str, Any]:
        """Long lists of the metadata, a vocabulary say, are given by their length."""
        return {
            "format": self.format,
            "bytes": self.num_bytes,
            "metadata": {key: _short(value) for key, value in self.metadata.items()},
            "code_shares": self.code_shares,
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def inspect_model(path: Path, progress: Progress = silent) -> Contents:
    """Reads a .gguf file, an artifact or a Hugging Face directory, one tensor in memory at a time.

    Raises UsageError for a missing path and FormatError for a damaged or unfinished model.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    reader = _Directory(path) if path.is_dir() else _File(path)
    tensors = []
    for facts in reader.tensors():
        tensors.append(facts)
        progress(len(tensors), reader.count, facts.name)
    return Contents(reader.format, reader.num_bytes, reader.metadata, tensors)


class _File:
    """A GGUF file of any architecture."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = _engine.GgufFile(str(path))
        except _engine.FormatError as error:
            raise FormatError(str(error)) from None
        self.format = f"GGUF {self._file.version}"
        self.num_bytes = path.stat().st_size
        self.metadata: dict[str, Any] = self._file.metadata
        self.count = len(self._file.tensors)

    def tensors(self) -> Iterator[TensorFacts]:
        for info in self._file.tensors:
            codes, error = self._ternariness(info)
            yield TensorFacts(info.name, info.type, tuple(info.shape), info.nbytes, codes, error)

    def _ternariness(self, info: _engine.TensorInfo) -> tuple[Codes | None, float | None]:
        hf_name = names.to_hf_name(info.name)
        is_projection = hf_name is not None and names.is_projection(hf_name)
        is_ternary_type = info.type.lower() in TERNARY_TYPES
        if len(info.shape) != 2 or not (is_projection or is_ternary_type):
            return None, None
        raw = self._file.read(info.name)
        if info.type in ALL_TYPES:
            try:
                return _codes(decode(raw, ALL_TYPES[info.type], info.shape, info.name)), None
            except FormatError:  # scales of its own per block, or more than three values
                pass
        try:
            values = dense_values(raw, info.type, info.shape)
        except (KeyError, NotImplementedError):  # a type that only its own program reads
            return None, None
        return None, ternary_error(info.name, values).relative


class _Directory:
    """A directory of safetensors files: masters, exactly ternary values, or floats."""

    def __init__(self, path: Path) -> None:
        self._source = HfSource(path)
        self.format = "Hugging Face directory"
        if self._source.quantization is not None:
            self.format = "wrinklefree artifact"
        elif self._source.bitnet is not None:
            mode = "online" if self._source.bitnet.is_online else "packed"
            self.format = f"BitNet checkpoint, {self._source.bitnet.linear_class}, {mode}"
        self.num_bytes = self._source.num_bytes
        manifest = self._source.manifest
        self.metadata = self._source.config | (
            {"wrinklefree.json": manifest.to_json()} if manifest else {}
        )
        self.count = len(self._source.names)

    def tensors(self) -> Iterator[TensorFacts]:
        for name in self._source.names:
            kind, num_bytes = self._source.stored_type(name)
            shape = self._source.shape(name)
            codes, error = None, None
            if self._source.is_ternary(name) and len(shape) == 2:
                codes, error = self._ternariness(name)
            yield TensorFacts(name, kind, shape, num_bytes, codes, error)

    def _ternariness(self, name: str) -> tuple[Codes | None, float | None]:
        if self._source.projections is Projections.PACKED:
            return _codes(self._source.ternary(name)), None
        values = self._source.read(name)
        if self._source.projections is Projections.MASTERS:
            relative = ternary_error(name, values).relative
            return _codes(quantize_master(values)), relative
        exact = exact_ternary(values)
        return (_codes(exact), None) if exact else (None, ternary_error(name, values).relative)


def _codes(ternary: Ternary) -> Codes:
    minus, zero, plus = np.bincount((ternary.codes + 1).reshape(-1), minlength=3).tolist()
    return Codes(minus, zero, plus, float(ternary.scale))


def _counts(codes: Codes | None) -> tuple[int, int, int]:
    return (codes.minus, codes.zero, codes.plus) if codes else (0, 0, 0)


def _short(value: Any) -> Any:
    if isinstance(value, list) and len(value) > 16:
        return {"items": len(value), "first": value[:4]}
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)  # JSON has no NaN
    return value
