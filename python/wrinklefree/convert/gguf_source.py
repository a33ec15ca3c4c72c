"""A GGUF file as a Hugging Face model: names, config, and values tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree import _engine
from wrinklefree.convert import gguf_names as names
from wrinklefree.convert import rope_divisors
from wrinklefree.convert.architectures import architecture_of
from wrinklefree.convert.codec import decode, dense_values
from wrinklefree.convert.hyper_parameters import (
    KEPT_FLOAT_KEY,
    SCHEMA,
    SUBLN_EPS_KEY,
    config_of,
    shortest,
)
from wrinklefree.convert.json_file import write_json
from wrinklefree.convert.masters import master_weights
from wrinklefree.convert.ternary_check import Ternary, quantize_master
from wrinklefree.convert.tokenizer_hf import token_ids, write_tokenizer
from wrinklefree.convert.types import ALL_TYPES
from wrinklefree.engine import default_sampling
from wrinklefree.errors import FormatError, UsageError

_TERNARY_ONLY = ("TQ1_0", "TQ2_0", "I2_S", "IQ2_BN")


class GgufSource:
    """What a GGUF file holds, under Hugging Face names. A `Source`.

    `is_ternary_model`: written by wrinklefree, or with sub-norms, or with a projection of a type
    that only ternary models have: the engine's rule. Then each projection is codes and one scale,
    or one that stays float. Otherwise values are dequantized. `i2s_group`: weights that an I2_S
    tensor interleaves, 128 as bitnet.cpp writes on x86, 64 as on ARM. `ternarize`: as in HfSource.
    Raises UsageError or FormatError listing everything that is unknown, missing or newer.
    """

    def __init__(self, path: Path, *, ternarize: bool = False, i2s_group: int = 128) -> None:
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
        self.i2s_group = i2s_group
        self.architecture = architecture_of(self.metadata)
        self.config = config_of(self.metadata, self._infos)
        if rope_divisors.TENSOR in self._infos:
            self._read_rope_divisors()
        mapped = names.map_all(self._infos.keys() - {rope_divisors.TENSOR}, to_gguf=False)
        self._gguf_name = {hf: gguf for gguf, hf in mapped.items()}
        self.subln = self.architecture.subln
        self.subln_eps = shortest(self.metadata.get(SUBLN_EPS_KEY, self.config["rms_norm_eps"]))
        self.default_sampling = default_sampling.from_gguf(self.metadata, str(path))
        self.stage = str(self.metadata.get("wrinklefree.stage", "imported"))
        flat = [name for name in self.projections if len(self.shape(name)) != 2]
        if flat:
            raise FormatError(f"{path}: not matrices: {', '.join(flat)}")
        self.is_ternary_model = (
            "wrinklefree.schema" in self.metadata
            or self.subln != "none"
            or any(self.type_name(name) in _TERNARY_ONLY for name in self.projections)
        )
        self.is_ternarized = ternarize
        if ternarize and self.is_ternary_model:
            raise UsageError(f"{path} is ternary already: convert it without --ternarize")
        self._is_ternary: dict[str, bool] = {}
        self.kept_float = tuple(
            name.removesuffix(".weight")
            for name in self.projections
            if self.is_ternary_model and not self.is_ternary(name)
        )
        missing = names.expected_hf_names(self.config, self.subln, self.kept_float) - set(
            self._gguf_name
        )
        if missing:
            raise FormatError(
                f"{path} lacks {len(missing)} tensor(s): {', '.join(sorted(missing))}"
            )
        self.config["vocab_size"] = self.shape("model.embed_tokens.weight")[0]
        self.config |= token_ids(self.metadata)

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

    def is_ternary(self, name: str) -> bool:
        """Whether a projection of a ternary file is ternary; a float type may also hold one that
        was kept in float."""
        if not names.is_projection(name):
            return False
        if not self.is_ternary_model:
            return self.is_ternarized
        if name not in self._is_ternary:
            self._is_ternary[name] = self._find_ternary(name)
        return self._is_ternary[name]

    @property
    def is_float_model(self) -> bool:
        return not (self.is_ternary_model or self.is_ternarized)

    def take_as_ternary(self) -> None:
        """For a float file whose projections were all found to be -s, 0, s."""
        self.is_ternary_model = True

    def _find_ternary(self, name: str) -> bool:
        kept = self.metadata.get(KEPT_FLOAT_KEY)
        if kept is not None:
            return name.removesuffix(".weight") not in kept
        if self.type_name(name) in (*_TERNARY_ONLY, "Q4_0"):
            return True
        try:
            self._stored(name)
        except FormatError:
            return False
        return True

    def ternary(self, name: str) -> Ternary:
        """Codes (rows in Hugging Face's order) and scale of a projection."""
        return quantize_master(self.read(name)) if self.is_ternarized else self._stored(name)

    def _stored(self, name: str) -> Ternary:
        kind = ALL_TYPES.get(self.type_name(name))
        if kind is None:
            raise FormatError(f"{self.path}: {name} has type {self.type_name(name)}: not ternary")
        stored = decode(
            self._raw(name), kind, self.shape(name), self._gguf_name[name], self.i2s_group
        )
        return Ternary(self._hf_rows(name, stored.codes), stored.scale)

    def masters(self, name: str) -> np.ndarray:
        if self.is_ternarized:
            return self.read(name)
        return master_weights(self.ternary(name), name)

    def read(self, name: str) -> np.ndarray:
        """Float32 values, dequantized, rows in Hugging Face's order."""
        type_name = self.type_name(name)
        if type_name in ("I2_S", "IQ2_BN"):  # unknown to the gguf package
            ternary = self._stored(name)
            dequantized: np.ndarray = ternary.codes * ternary.scale
            return dequantized
        try:
            values = dense_values(self._raw(name), type_name, self.shape(name))
        except (KeyError, NotImplementedError):
            raise FormatError(f"{self.path}: {name} has type {type_name}: not readable") from None
        if not np.isfinite(values).all():
            raise FormatError(f"{self.path}: {name} has NaN or infinite values")
        return self._hf_rows(name, values)

    def tokenizer_keys(self) -> dict[str, Any]:
        return {key: value for key, value in self.metadata.items() if key.startswith("tokenizer.")}

    def write_tokenizer(self, directory: Path) -> None:
        write_tokenizer(self.metadata, directory)
        generation = token_ids(self.metadata)
        generation |= default_sampling.to_generation_config(self.default_sampling)
        write_json(directory / "generation_config.json", generation)

    def _raw(self, name: str) -> np.ndarray:
        raw: np.ndarray = self._file.read(self._gguf_name[name])
        return raw

    def _hf_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        heads = names.qk_heads(name, self.config)
        if heads is None or not self.architecture.permutes_qk:
            return rows
        return names.separate_halves(rows, heads)
