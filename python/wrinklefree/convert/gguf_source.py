"""A GGUF file as a Hugging Face model: names, config, and values tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree import _engine
from wrinklefree.convert import gguf_names as names
from wrinklefree.convert import rope_divisors
from wrinklefree.convert.architectures import architecture
from wrinklefree.convert.codec import decode, dense_values
from wrinklefree.convert.hyper_parameters import SCHEMA, config_of
from wrinklefree.convert.masters import master_weights
from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.convert.types import ALL_TYPES
from wrinklefree.errors import FormatError, UsageError

_TERNARY_ONLY = ("TQ1_0", "TQ2_0", "I2_S")


class GgufSource:
    """What a GGUF file holds, under Hugging Face names.

    `is_ternary`: written by wrinklefree, or with a projection of a type that only ternary models
    have; then each projection must be codes and one scale. Otherwise values are dequantized.
    Raises UsageError or FormatError listing everything that is unknown, missing or newer.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"{path} does not exist")
        try:
            self._file = _engine.GgufFile(str(path))
        except _engine.FormatError as error:
            raise FormatError(str(error)) from None
        self.path = path
        self.metadata: dict[str, Any] = self._file.metadata
        schema = self.metadata.get("wrinklefree.schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise FormatError(
                f"{path} has wrinklefree.schema {schema!r}: it needs a newer version of "
                f"wrinklefree (this one reads schema {SCHEMA})"
            )
        self._infos = {info.name: info for info in self._file.tensors}
        if any(info.type == "IQ2_BN" for info in self._infos.values()):
            raise FormatError(
                f"{path} has IQ2_BN tensors: the engine runs them, wf-convert does not read them; "
                "convert the file that was quantized to IQ2_BN"
            )
        self.architecture = architecture(str(self.metadata.get("general.architecture", "")))
        self.config = config_of(self.metadata, self._infos)
        if rope_divisors.TENSOR in self._infos:
            self._read_rope_divisors()
        mapped = names.map_all(self._infos.keys() - {rope_divisors.TENSOR}, to_gguf=False)
        self._gguf_name = {hf: gguf for gguf, hf in mapped.items()}
        self.subln = "subln" if any("sub_norm" in name for name in self._gguf_name) else "none"
        missing = names.expected_hf_names(self.config, self.subln) - set(self._gguf_name)
        if missing:
            raise FormatError(
                f"{path} lacks {len(missing)} tensor(s): {', '.join(sorted(missing))}"
            )
        flat = [name for name in self.projections if len(self.shape(name)) != 2]
        if flat:
            raise FormatError(f"{path}: not matrices: {', '.join(flat)}")
        self.config["vocab_size"] = self.shape("model.embed_tokens.weight")[0]
        self.is_ternary = "wrinklefree.schema" in self.metadata or any(
            self.type_name(name) in _TERNARY_ONLY for name in self.projections
        )

    def _read_rope_divisors(self) -> None:
        name = rope_divisors.TENSOR
        raw, info = self._file.read(name), self._infos[name]
        values = dense_values(raw, info.type, tuple(info.shape))
        theta = self.config["rope_parameters"]["rope_theta"]
        self.config["rope_parameters"] = rope_divisors.parameters_of(
            values, theta, self.config["head_dim"]
        )

    @property
    def names(self) -> list[str]:
        return list(self._gguf_name)

    @property
    def projections(self) -> list[str]:
        return [name for name in self._gguf_name if names.is_projection(name)]

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._infos[self._gguf_name[name]].shape)

    def type_name(self, name: str) -> str:
        return str(self._infos[self._gguf_name[name]].type)

    def is_ternary_tensor(self, name: str) -> bool:
        """Whether a projection of a ternary file is ternary; a float type may also hold one that
        was kept in float."""
        if not self.is_ternary or not names.is_projection(name):
            return False
        if self.type_name(name) in (*_TERNARY_ONLY, "Q4_0"):
            return True
        try:
            self.ternary(name)
        except FormatError:
            return False
        return True

    def ternary(self, name: str) -> Ternary:
        """Codes (rows in Hugging Face's order) and scale of a projection."""
        kind = ALL_TYPES.get(self.type_name(name))
        if kind is None:
            raise FormatError(f"{self.path}: {name} has type {self.type_name(name)}: not ternary")
        stored = decode(self._raw(name), kind, self.shape(name), self._gguf_name[name])
        return Ternary(self._hf_rows(name, stored.codes), stored.scale)

    def values(self, name: str) -> np.ndarray:
        """Float32 values, rows in Hugging Face's order: masters of a ternary projection, else
        dequantized."""
        if self.is_ternary_tensor(name):
            return master_weights(self.ternary(name), name)
        type_name = self.type_name(name)
        try:
            values = dense_values(self._raw(name), type_name, self.shape(name))
        except (KeyError, NotImplementedError):
            raise FormatError(f"{self.path}: {name} has type {type_name}: not readable") from None
        if not np.isfinite(values).all():
            raise FormatError(f"{self.path}: {name} has NaN or infinite values")
        return self._hf_rows(name, values)

    def _raw(self, name: str) -> np.ndarray:
        raw: np.ndarray = self._file.read(self._gguf_name[name])
        return raw

    def _hf_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        heads = names.qk_heads(name, self.config)
        if heads is None or not self.architecture.permutes_qk:
            return rows
        return names.separate_halves(rows, heads)
