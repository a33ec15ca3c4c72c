"""Writes a Hugging Face directory: an artifact, a BitNet checkpoint or plain floats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wrinklefree.convert import hf_bitnet
from wrinklefree.convert.hf_bitnet import BitnetQuantization
from wrinklefree.convert.json_file import write_json
from wrinklefree.convert.safetensors_writer import write_safetensors
from wrinklefree.convert.source import Source, check_tensors
from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.convert.to_gguf import Progress, silent
from wrinklefree.errors import FormatError
from wrinklefree.models.card import write_card
from wrinklefree.models.manifest import MANIFEST_NAME, Manifest
from wrinklefree.models.quant_config import QuantConfig


class Form(Enum):
    """What a directory holds."""

    ARTIFACT = "artifact"
    FLOAT = "float"
    AUTOBITLINEAR = "autobitlinear"
    BITLINEAR = "bitlinear"

    @property
    def is_packed(self) -> bool:
        return self in (Form.AUTOBITLINEAR, Form.BITLINEAR)


def write_hf(
    source: Source, directory: Path, form: Form = Form.ARTIFACT, progress: Progress = silent
) -> None:
    """Writes all files of the model into `directory`, which exists (`atomic.new_directory`).

    Raises FormatError, before it writes, if the form cannot hold the model.
    """
    check_form(source, form)
    source.write_tokenizer(directory)
    write_json(directory / "config.json", hf_config(source, form))
    manifest = None
    if form is Form.ARTIFACT:
        manifest = Manifest(
            stage=source.stage,
            subln=source.subln,
            recipe={"converted_from": source.path.name},
        )
        write_json(directory / MANIFEST_NAME, manifest.to_json())
    layout = stored_tensors(source, form)
    write_safetensors(
        directory / "model.safetensors",
        {tensor.name: (tensor.dtype, tensor.shape) for tensor in layout},
        _values(source, form, layout, progress),
    )
    if manifest is not None:
        write_card(directory, manifest)


def check_form(source: Source, form: Form) -> None:
    """Raises FormatError, with the reason, if the form cannot hold the model."""
    check_tensors(source)
    limit = None
    if form.is_packed:
        limit = hf_bitnet.packing_limit(source)
    elif form is Form.FLOAT:
        limit = hf_bitnet.class_limit(source, is_float=True)
    if limit is not None:
        raise FormatError(f"{source.path} has no {form.value} form: {limit}")


def hf_config(source: Source, form: Form) -> dict[str, Any]:
    """config.json of the model in this form."""
    config = {**source.config, "dtype": "float32"}
    config.pop("torch_dtype", None)  # the older name of dtype
    kept = ("lm_head", *source.kept_float)
    if form is Form.ARTIFACT:
        quantization = QuantConfig(
            subln=source.subln,  # type: ignore[arg-type]  # one of the three
            modules_to_not_convert=kept,
            subln_eps=source.subln_eps,
        )
        return {**config, "quantization_config": quantization.to_json()}
    if source.subln == "subln":
        config |= {
            "model_type": hf_bitnet.MODEL_TYPE,
            "architectures": ["BitNetForCausalLM"],
        }
    if form.is_packed:
        packed = BitnetQuantization(
            form.value,
            rms_norm_eps=source.subln_eps if source.subln == "all" else None,
            modules_to_not_convert=kept,
        )
        config["quantization_config"] = packed.to_json()
    return config


def stored_bias(source: Source, form: Form, name: str) -> np.ndarray:
    """A tensor that is no ternary matrix as it is stored: the bias of one may be divided by its
    scale."""
    weight = name.removesuffix(".bias") + ".weight"
    if not form.is_packed or not name.endswith(".bias") or not source.is_ternary(weight):
        return source.read(name)
    scale = source.ternary(weight).scale
    return BitnetQuantization(form.value).stored_bias(source.read(name), scale)


def stored_scale(ternary: Ternary, form: Form) -> np.float32:
    """The scale that a directory of this form gives back: a reciprocal rounds twice."""
    if form is not Form.BITLINEAR:
        return ternary.scale
    quantization = BitnetQuantization(form.value)
    return quantization.scale_of(quantization.weight_scale(ternary.scale))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of the directory: uint8 for packed codes, else float32."""

    name: str
    source_name: str
    dtype: Literal["F32", "U8"]
    shape: tuple[int, ...]

    @property
    def is_scale(self) -> bool:
        return self.name.endswith(hf_bitnet.SCALE_SUFFIX)

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * (1 if self.dtype == "U8" else 4)


def stored_tensors(source: Source, form: Form) -> list[StoredTensor]:
    """Tensors of the directory, floats first, so that they are aligned in the file."""
    tensors = []
    for name in source.names:
        shape = source.shape(name)
        if not form.is_packed:
            tensors.append(StoredTensor(name, name, "F32", shape))
        elif not source.is_ternary(name):
            tensors.append(StoredTensor(hf_bitnet.stored_name(name), name, "F32", shape))
        else:
            scale = name.removesuffix(".weight") + hf_bitnet.SCALE_SUFFIX
            tensors.append(StoredTensor(scale, name, "F32", (1,)))
            tensors.append(StoredTensor(name, name, "U8", (shape[0] // 4, shape[1])))
    return sorted(tensors, key=lambda tensor: tensor.dtype)


def _values(
    source: Source, form: Form, layout: list[StoredTensor], progress: Progress
) -> Iterator[np.ndarray]:
    for index, tensor in enumerate(layout):
        progress(index, len(layout), tensor.name)
        yield _value(source, form, tensor)
    progress(len(layout), len(layout), "")


def _value(source: Source, form: Form, tensor: StoredTensor) -> np.ndarray:
    name = tensor.source_name
    if not source.is_ternary(name):
        return stored_bias(source, form, name)
    if form is Form.ARTIFACT:
        return source.masters(name)
    ternary = source.ternary(name)
    if tensor.dtype == "U8":
        return hf_bitnet.pack(ternary)
    if tensor.is_scale:
        return np.array([BitnetQuantization(form.value).weight_scale(ternary.scale)])
    values: np.ndarray = ternary.codes * ternary.scale
    return values
