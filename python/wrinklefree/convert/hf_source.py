"""A Hugging Face model directory, read tensor by tensor."""

from __future__ import annotations

import shutil
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from wrinklefree.convert import hf_bitnet
from wrinklefree.convert.gguf_names import is_projection
from wrinklefree.convert.hf_bitnet import BitnetQuantization
from wrinklefree.convert.json_file import read_json
from wrinklefree.convert.masters import master_weights
from wrinklefree.convert.ternary_check import Ternary, exact_ternary, quantize_master
from wrinklefree.convert.tokenizer_gguf import tokenizer_keys
from wrinklefree.engine import default_sampling
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models.manifest import Manifest, read_manifest, refuse_unfinished
from wrinklefree.models.quant_config import QUANT_METHOD, QuantConfig
from wrinklefree.models.weights import weight_files

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# Beside the weights: what a tokenizer and text generation need.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


class Projections(Enum):
    """What the projections of a directory are stored as."""

    MASTERS = "floats that absmean quantization makes ternary"
    PACKED = "codes and a scale"
    PLAIN = "floats, ternary if they are -s, 0, s"


class HfSource:
    """Config, manifest and tensors of a directory; only safetensors, never pickle. A `Source`.

    An artifact, a BitNet checkpoint of transformers or a plain float checkpoint; `quantization` and
    `manifest` are those of an artifact. `ternarize`: masters from a plain checkpoint whose weights
    are not ternary. Raises UsageError or FormatError, with one line, for anything that is no
    complete model of a known schema at lambda = 1.
    """

    def __init__(self, path: Path, *, ternarize: bool = False) -> None:
        if not path.is_dir():
            raise UsageError(f"{path} is not a directory")
        refuse_unfinished(path)
        self.path = path
        config = read_json(path / "config.json")
        fields = config.pop("quantization_config", None) or {}
        config.pop("auto_map", None)  # remote code: never run, never passed on
        method = fields.get("quant_method") if isinstance(fields, dict) else fields
        if method not in (None, QUANT_METHOD, hf_bitnet.QUANT_METHOD):
            raise FormatError(
                f"{path}: quant_method {method!r} cannot be converted; supported: wrinklefree "
                "artifacts, bitnet checkpoints and plain float checkpoints"
            )
        is_artifact = method == QUANT_METHOD
        self.quantization = QuantConfig.from_json(fields) if is_artifact else None
        self.manifest: Manifest | None = read_manifest(path) if is_artifact else None
        self.bitnet = (
            BitnetQuantization.from_json(fields) if method == hf_bitnet.QUANT_METHOD else None
        )
        self.stage = self.manifest.stage if self.manifest else "imported"
        generation = path / "generation_config.json"
        self.default_sampling = default_sampling.from_generation_config(
            read_json(generation) if generation.exists() else {}, str(generation)
        )
        self.projections = self._projections()
        self.is_ternarized = ternarize and self.projections is Projections.PLAIN
        if ternarize and not self.is_ternarized:
            raise UsageError(f"{path} is ternary already: convert it without --ternarize")
        is_class = config.get("model_type") == hf_bitnet.MODEL_TYPE
        self.config: dict[str, Any] = hf_bitnet.base_config(config) if is_class else config
        self.subln, self.subln_eps = self._subln(is_class)
        self._refuse_lambda()
        self._files: dict[str, Path] = {}
        self._stored: dict[str, str] = {}
        self._scales: dict[str, str] = {}  # projection -> name of its weight_scale
        self._find_tensors()
        self._drop_duplicate_head()
        self._check_packed()
        self.kept_float = self._kept_float()

    def _projections(self) -> Projections:
        if self.quantization is not None or (self.bitnet and self.bitnet.is_online):
            return Projections.MASTERS
        return Projections.PACKED if self.bitnet else Projections.PLAIN

    def _subln(self, is_bitnet_class: bool) -> tuple[str, float]:
        """Placement and epsilon of the norms beside the model's own."""
        eps = float(self.config.get("rms_norm_eps") or 0)
        inner = self.bitnet.rms_norm_eps if self.bitnet else None
        if self.quantization is not None:
            return self.quantization.subln, float(self.quantization.subln_eps or eps)
        if inner is not None and is_bitnet_class:
            raise FormatError(
                f"{self.path}: sub-norms and use_rms_norm together are not supported, one of them "
                "is"
            )
        if inner is not None:
            return "all", float(inner)
        return ("subln" if is_bitnet_class else "none"), eps

    def _refuse_lambda(self) -> None:
        if self.quantization is None or self.manifest is None:
            return
        lam = min(self.quantization.lam, self.manifest.lam)
        if lam < 1.0:
            raise FormatError(
                f"{self.path} has lambda = {lam:g}: only a fully quantized model (lambda = 1) can "
                "be converted; train it on, or evaluate it as it is with wf-eval"
            )

    def _find_tensors(self) -> None:
        for stored, file in _tensor_files(self.path).items():
            if stored.endswith("rotary_emb.inv_freq"):  # older transformers saved this buffer
                continue
            name = hf_bitnet.artifact_name(stored) if self.bitnet else stored
            self._files[name], self._stored[name] = file, stored
        if self.projections is not Projections.PACKED:
            return
        for name in [name for name in self._files if name.endswith(hf_bitnet.SCALE_SUFFIX)]:
            weight = hf_bitnet.weight_name(name)
            if weight in self._files:
                self._scales[weight] = name

    def _drop_duplicate_head(self) -> None:
        """A tied checkpoint may store its head a second time; a different head is an error."""
        head, embedding = "lm_head.weight", "model.embed_tokens.weight"
        if not self.config.get("tie_word_embeddings", False) or head not in self._files:
            return
        if embedding in self._files and not np.array_equal(self.read(head), self.read(embedding)):
            raise FormatError(
                f"{self.path}: tie_word_embeddings is true but lm_head.weight differs from "
                "model.embed_tokens.weight; set it to false to keep both"
            )
        del self._files[head]

    def _check_packed(self) -> None:
        """A projection of a packed checkpoint without a scale must be one that stays float."""
        if self.bitnet is None or self.projections is not Projections.PACKED:
            return
        without = [
            name
            for name in self._files
            if is_projection(name)
            and name not in self._scales
            and not self.bitnet.keeps_float(name.removesuffix(".weight"))
        ]
        if without:
            raise FormatError(
                f"{self.path}: {len(without)} packed matrices have no weight_scale: "
                + ", ".join(sorted(without))
            )

    def _kept_float(self) -> tuple[str, ...]:
        return tuple(
            name.removesuffix(".weight")
            for name in self.names
            if is_projection(name) and not self.is_ternary(name)
        )

    @property
    def is_float_model(self) -> bool:
        return False  # a float directory is taken for -s, 0, s, or refused

    @property
    def names(self) -> list[str]:
        scales = set(self._scales.values())
        return [name for name in self._files if name not in scales]

    @property
    def num_bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.stat().st_size for file in set(self._files.values()))

    def is_ternary(self, weight_name: str) -> bool:
        """False for embeddings and heads, and for projections that the checkpoint keeps in
        float."""
        if not is_projection(weight_name):
            return False
        module = weight_name.removesuffix(".weight")
        if self.projections is Projections.PACKED:
            return weight_name in self._scales
        if self.bitnet is not None:
            return not self.bitnet.keeps_float(module)
        kept = self.quantization.modules_to_not_convert if self.quantization else ()
        return not any(f".{entry}." in f".{module}." for entry in kept)

    @property
    def is_unpacked(self) -> bool:
        """Whether codes with a scale are stored as floats, as transformers saves a loaded model."""
        return any(self.stored_type(name)[0] != "U8" for name in self._scales)

    def stored_type(self, name: str) -> tuple[str, int]:
        """Dtype in the file, and bytes."""
        with safe_open(self._files[name], framework="pt") as file:
            kind: str = file.get_slice(self._stored[name]).get_dtype()
            return kind, file.get_tensor(self._stored[name]).nbytes

    def shape(self, name: str) -> tuple[int, ...]:
        with safe_open(self._files[name], framework="pt") as file:
            entry = file.get_slice(self._stored[name])
            shape, dtype = tuple(entry.get_shape()), entry.get_dtype()
        if name in self._scales and dtype == "U8" and len(shape) == 2:
            return (hf_bitnet.projection_rows(name, self.config), shape[1])
        return shape

    def ternary(self, name: str) -> Ternary:
        """Codes and scale of a projection: masters are quantized, other values taken exactly."""
        if self.projections is Projections.PACKED:
            return self._packed(name)
        if self.projections is Projections.MASTERS or self.is_ternarized:
            return quantize_master(self.read(name))
        ternary = exact_ternary(self.read(name))
        if ternary is None:
            raise FormatError(f"{self.path}: {name} is not ternary")
        return ternary

    def masters(self, name: str) -> np.ndarray:
        if self.projections is Projections.MASTERS or self.is_ternarized:
            return self.read(name)
        return master_weights(self.ternary(name), name)

    def read(self, name: str) -> np.ndarray:
        """Values of a tensor as float32 (exact for float32, float16 and bfloat16 checkpoints)."""
        if name in self._scales:
            ternary = self._packed(name)
            values: np.ndarray = ternary.codes * ternary.scale
            return values
        weight = name.removesuffix(".bias") + ".weight"
        if self.bitnet is not None and weight in self._scales:
            return self.bitnet.read_bias(self.stored(name), self._weight_scale(weight))
        return self.stored(name)

    def tokenizer_keys(self) -> dict[str, Any]:
        return tokenizer_keys(self.path, self.config)

    def write_tokenizer(self, directory: Path) -> None:
        for name in _TOKENIZER_FILES:
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, directory / name)

    def _packed(self, name: str) -> Ternary:
        """Codes and scale of a packed projection. transformers saves a loaded one unpacked."""
        assert self.bitnet is not None
        scale = self._weight_scale(name)
        stored = self._tensor(name)
        if stored.dim() != 2:
            raise FormatError(f"{self.path}: {name} has shape {list(stored.shape)}, not two sizes")
        if stored.dtype is torch.uint8:
            rows = hf_bitnet.projection_rows(name, self.config)
            return Ternary(hf_bitnet.unpack(stored.numpy(), rows, name), scale)
        ternary = exact_ternary(self.stored(name))
        if ternary is None:
            raise FormatError(f"{self.path}: {name} has a weight_scale and is not ternary")
        return Ternary(ternary.codes, ternary.scale * scale)

    def _weight_scale(self, name: str) -> np.float32:
        assert self.bitnet is not None
        stored = self.stored(self._scales[name]).reshape(-1)
        scale = self.bitnet.scale_of(stored[0]) if stored.size == 1 and stored[0] > 0 else None
        if scale is None or not 0 < scale < np.inf:
            raise FormatError(
                f"{self.path}: {self._scales[name]} must be one positive number, it is "
                f"{stored[:4].tolist()}"
            )
        return scale

    def _tensor(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(self._stored[name])
        return tensor

    def stored(self, name: str) -> np.ndarray:
        """Float32 values of a float tensor as the file has them."""
        tensor = self._tensor(name)
        if tensor.dtype not in _FLOATS:
            raise FormatError(
                f"{self._files[name]}: tensor {name} has dtype {tensor.dtype}; "
                "float32, float16 and bfloat16 are read"
            )
        array: np.ndarray = tensor.float().numpy()
        if not np.isfinite(array).all():
            raise FormatError(f"{self._files[name]}: tensor {name} has NaN or infinite values")
        return array


def _tensor_files(path: Path) -> dict[str, Path]:
    """Which safetensors file holds each tensor."""
    found: dict[str, Path] = {}
    for file in weight_files(path):
        try:
            with safe_open(file, framework="pt") as opened:
                found.update(dict.fromkeys(opened.keys(), file))
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{file} is not a readable safetensors file: {error}") from None
    return found
