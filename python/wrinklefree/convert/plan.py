"""What a GGUF file will hold, decided (and refused) before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree.convert import gguf_names as names
from wrinklefree.convert import rope_divisors
from wrinklefree.convert.architectures import (
    HIDDEN_ACT_KEY,
    MODEL_TYPE_KEY,
    SUBLN_KEY,
    Architecture,
    architecture_for,
    llama_cpp_limit,
    own_reason,
)
from wrinklefree.convert.codec import is_exact
from wrinklefree.convert.hyper_parameters import (
    KEPT_FLOAT_KEY,
    SCHEMA,
    SUBLN_EPS_KEY,
    head_dim,
    hyper_parameters,
    rope_of,
)
from wrinklefree.convert.open_source import open_source
from wrinklefree.convert.source import Source, check_tensors
from wrinklefree.convert.types import (
    EMBED_TYPES,
    F16,
    F32,
    Q8_0,
    TensorType,
    TypeShare,
    plain_name,
    ternary_type,
    type_shares,
)
from wrinklefree.engine import default_sampling
from wrinklefree.errors import FormatError, UsageError, nearest

# `general.file_type` of llama.cpp by the name of the type that most ternary tensors have.
_FILE_TYPES = {"F16": 1, "Q4_0": 2, "TQ1_0": 36, "TQ2_0": 37}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the file and where its values come from."""

    gguf_name: str
    hf_name: str
    shape: tuple[int, ...]
    type: TensorType
    is_ternary: bool
    fallback: str | None = None  # why a ternary tensor does not have the requested type
    values: tuple[float, ...] | None = None  # of a tensor that config.json holds as a formula

    @property
    def num_bytes(self) -> int:
        return self.type.num_bytes(self.shape)

    @property
    def num_parameters(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class FloatShare:
    """Parameters that are kept in a float type for one reason."""

    reason: str
    tensors: int
    parameters: int
    share: float  # of all parameters


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a file but its bytes."""

    source: Source
    architecture: Architecture
    metadata: dict[str, Any]
    tensors: list[PlannedTensor]
    notes: list[str] = field(default_factory=list)
    llama_cpp_limit: str | None = None  # why mainline llama.cpp cannot run the file

    @property
    def shares(self) -> list[TypeShare]:
        return type_shares((t.type.name, t.num_parameters, t.num_bytes) for t in self.tensors)

    @property
    def fallbacks(self) -> list[PlannedTensor]:
        return [tensor for tensor in self.tensors if tensor.fallback]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors, without the header and the padding between them."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        return sum(tensor.num_parameters for tensor in self.tensors)

    @property
    def embeddings(self) -> list[PlannedTensor]:
        """The embedding, and the head if it has weights of its own."""
        names = ("model.embed_tokens.weight", "lm_head.weight")
        return [tensor for tensor in self.tensors if tensor.hf_name in names]

    @property
    def not_ternary(self) -> list[FloatShare]:
        """What is not ternary, and why, largest part first."""
        groups: dict[str, list[PlannedTensor]] = {}
        for tensor in self.tensors:
            if not tensor.is_ternary:
                groups.setdefault(_float_reason(tensor.hf_name), []).append(tensor)
        shares = [
            FloatShare(
                reason,
                len(group),
                (count := sum(t.num_parameters for t in group)),
                count / self.num_parameters,
            )
            for reason, group in groups.items()
        ]
        return sorted(shares, key=lambda share: -share.parameters)

    @property
    def ternary_bits_per_weight(self) -> float:
        ternary = [tensor for tensor in self.tensors if tensor.is_ternary]
        parameters = sum(tensor.num_parameters for tensor in ternary)
        return 8 * sum(tensor.num_bytes for tensor in ternary) / parameters

    def refuse_fallbacks(self) -> None:
        """Raises FormatError that lists every tensor without the requested type (`--strict`)."""
        if self.fallbacks:
            listed = ", ".join(
                f"{tensor.gguf_name} ({tensor.fallback}: {tensor.type.name})"
                for tensor in self.fallbacks
            )
            raise FormatError(
                f"--strict: {len(self.fallbacks)} of {len(self.tensors)} tensors cannot have the "
                f"requested type: {listed}"
            )


def plan_gguf(path: Path | Source, *, wanted: str = "auto", embed: str = "auto") -> Plan:
    """Plan for the model at `path`; reads weights only where a choice depends on them.

    wanted: auto or a key of TERNARY_TYPES; embed: auto or a key of EMBED_TYPES. Raises FormatError
    for everything in the source that has no place in the file, all of it at once.
    """
    embed = plain_name(embed)
    if embed != "auto" and embed not in EMBED_TYPES:
        raise UsageError(
            f"embedding type {embed!r} is not supported{nearest(embed, EMBED_TYPES)}; "
            f"choose auto, {', '.join(EMBED_TYPES)}"
        )
    ternary_type(256, wanted)  # an unknown name is refused before any file is read
    source = open_source(path) if isinstance(path, Path) else path
    check_tensors(source)
    arch = architecture_for(source.config, source.subln, source.subln_eps, source.names)
    gguf_name = names.map_all(source.names, to_gguf=True)
    _check_embedding_rows(source)
    tensors = [
        _plan_tensor(source, hf_name, gguf_name[hf_name], wanted, embed)
        for hf_name in _file_order(source.names)
    ]
    tensors[:0] = _rope_divisors(source.config)
    metadata = _metadata(source, arch, tensors)
    notes = []
    reason = own_reason(source.config, source.subln, source.subln_eps, source.names)
    limit = llama_cpp_limit(arch, reason)
    if limit:
        notes.append(f"only wrinklefree runs this file: {limit}")
    if any(tensor.type.name == "I2_S" for tensor in tensors):
        notes.append("I2_S is bitnet.cpp's own type: mainline llama.cpp does not load it")
        limit = limit or "I2_S is bitnet.cpp's own type"
    return Plan(source, arch, metadata, tensors, notes, limit)


def _rope_divisors(config: Mapping[str, Any]) -> list[PlannedTensor]:
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return []
    values = rope_divisors.divisors(rope, head_dim(config))
    return [
        PlannedTensor(
            gguf_name=rope_divisors.TENSOR,
            hf_name="config.json",
            shape=values.shape,
            type=F32,
            is_ternary=False,
            values=tuple(values.tolist()),
        )
    ]


def _plan_tensor(
    source: Source, hf_name: str, gguf_name: str, wanted: str, embed: str
) -> PlannedTensor:
    shape = source.shape(hf_name)
    if source.is_ternary(hf_name):
        if len(shape) != 2:
            raise FormatError(f"{source.path}: {hf_name} has shape {list(shape)}, not two sizes")
        choice = ternary_type(shape[-1], wanted)
        return PlannedTensor(gguf_name, hf_name, shape, choice.type, True, choice.fallback)
    kind = F32 if len(shape) == 1 else _dense_type(source, hf_name, shape, embed)
    return PlannedTensor(gguf_name, hf_name, shape, kind, False)


def _dense_type(source: Source, hf_name: str, shape: tuple[int, ...], embed: str) -> TensorType:
    """Type of an embedding, a head or a projection kept in float; auto: Q8_0 where exact."""
    if embed != "auto":
        kind = EMBED_TYPES[embed]
        if not kind.fits(shape[-1]):
            raise UsageError(
                f"{hf_name}: rows of {shape[-1]} are not a multiple of {kind.name}'s block of "
                f"{kind.block}; choose f16 or f32"
            )
        return kind
    if not Q8_0.fits(shape[-1]):
        return F16
    return Q8_0 if is_exact(source.read(hf_name), Q8_0) else F16


def _float_reason(hf_name: str) -> str:
    if hf_name == "model.embed_tokens.weight":
        return "embedding"
    if hf_name == "lm_head.weight":
        return "output head"
    if hf_name.endswith(".bias"):
        return "bias"
    if hf_name == "config.json":
        return "rotary frequencies"
    return "projection that the artifact keeps in float" if names.is_projection(hf_name) else "norm"


def _check_embedding_rows(source: Source) -> None:
    rows = source.shape("model.embed_tokens.weight")[0]
    if rows != source.config.get("vocab_size"):
        raise FormatError(
            f"{source.path}: vocab_size is {source.config.get('vocab_size')}, but the embedding "
            f"has {rows} rows"
        )


def _file_order(hf_names: list[str]) -> list[str]:
    """Embedding first, then layer by layer, norm and head last: the order a reader streams in."""

    def key(name: str) -> tuple[int, int, str]:
        if name == "model.embed_tokens.weight":
            return (0, 0, name)
        parts = name.split(".")
        return (1, int(parts[2]), name) if parts[1] == "layers" else (2, 0, name)

    return sorted(hf_names, key=key)


def _metadata(source: Source, arch: Architecture, tensors: list[PlannedTensor]) -> dict[str, Any]:
    config = source.config
    kinds = [tensor.type.name for tensor in tensors if tensor.is_ternary]
    most = max(set(kinds), key=kinds.count)
    metadata: dict[str, Any] = {
        "general.architecture": arch.name,
        "general.type": "model",
        "general.name": str(config.get("_name_or_path") or source.path.resolve().name),
        "general.quantization_version": 2,
    }
    if most in _FILE_TYPES:
        metadata["general.file_type"] = _FILE_TYPES[most]
    metadata |= hyper_parameters(config, arch)
    metadata |= {
        "wrinklefree.schema": SCHEMA,
        "wrinklefree.stage": source.stage,
        SUBLN_KEY: source.subln,
        SUBLN_EPS_KEY: source.subln_eps,
        MODEL_TYPE_KEY: str(config["model_type"]),
        HIDDEN_ACT_KEY: str(config["hidden_act"]),
        KEPT_FLOAT_KEY: ["lm_head", *source.kept_float],
    }
    return metadata | default_sampling.to_gguf(source.default_sampling) | source.tokenizer_keys()
