"""Writes a Hugging Face directory from a GGUF file: an artifact if it is ternary, else floats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.safetensors_writer import write_safetensors
from wrinklefree.convert.to_gguf import Progress, silent
from wrinklefree.convert.tokenizer_hf import token_ids, write_tokenizer
from wrinklefree.errors import UsageError
from wrinklefree.models.card import write_card
from wrinklefree.models.manifest import MANIFEST_NAME, Manifest
from wrinklefree.models.quant_config import QuantConfig


def write_hf(source: GgufSource, directory: Path, progress: Progress = silent) -> None:
    """Writes all files of the model into `directory`, which exists (`atomic.new_directory`)."""
    kept_float = [
        name.removesuffix(".weight")
        for name in source.projections
        if source.is_ternary and not source.is_ternary_tensor(name)
    ]
    write_tokenizer(source.metadata, directory)
    _write_json(directory / "config.json", hf_config(source, kept_float))
    _write_json(directory / "generation_config.json", token_ids(source.metadata))
    manifest = None
    if source.is_ternary:
        manifest = Manifest(
            stage=str(source.metadata.get("wrinklefree.stage", "imported")),
            subln=source.subln,
            recipe={"converted_from": source.path.name},
        )
        _write_json(directory / MANIFEST_NAME, manifest.to_json())
    shapes = {name: source.shape(name) for name in source.names}
    write_safetensors(
        directory / "model.safetensors", shapes, _values(source, list(shapes), progress)
    )
    if manifest is not None:
        write_card(directory, manifest)


def hf_config(source: GgufSource, kept_float: list[str]) -> dict[str, Any]:
    """config.json of the model, with quantization_config if it is ternary."""
    config = {**source.config, **token_ids(source.metadata)}
    if source.is_ternary:
        quantization = QuantConfig(
            subln="subln" if source.subln == "subln" else "none",
            modules_to_not_convert=("lm_head", *kept_float),
            subln_eps=source.config["rms_norm_eps"],
        )
        config["quantization_config"] = quantization.to_json()
    elif source.subln != "none":
        raise UsageError(
            f"{source.path} is a float model with sub-norms: no Hugging Face class of its own; "
            "only ternary files of this architecture convert"
        )
    return config


def float_bytes(source: GgufSource) -> int:
    """Size of the model in float32, which is what a directory from this file takes."""
    return sum(4 * int(np.prod(source.shape(name), dtype=np.int64)) for name in source.names)


def _values(source: GgufSource, names: list[str], progress: Progress) -> Iterator[np.ndarray]:
    for index, name in enumerate(names):
        progress(index, len(names), name)
        yield source.values(name)
    progress(len(names), len(names), "")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
