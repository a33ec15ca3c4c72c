"""A Hugging Face model directory, read tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from wrinklefree.convert.gguf_names import is_projection
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models.manifest import Manifest, read_manifest, refuse_unfinished
from wrinklefree.models.quant_config import QUANT_METHOD, QuantConfig
from wrinklefree.models.weights import weight_files


class HfSource:
    """Config, manifest and tensors of a directory; only safetensors, never pickle.

    `quantization` is None for a plain checkpoint, whose values are taken as they are; an artifact's
    are master weights, to be quantised by absmean. Raises UsageError or FormatError, with one line,
    for anything that is no complete model of a known schema at lambda = 1.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UsageError(f"{path} is not a directory")
        refuse_unfinished(path)
        self.path = path
        self.config: dict[str, Any] = read_json(path / "config.json")
        self.quantization = _quantization(path, self.config)
        self.manifest: Manifest | None = read_manifest(path) if self.quantization else None
        self.subln: str = self.quantization.subln if self.quantization else "none"
        self._refuse_settings()
        self._files = _tensor_files(path)
        self._drop_duplicate_head()

    def _refuse_settings(self) -> None:
        if self.quantization is None or self.manifest is None:
            return
        lam = min(self.quantization.lam, self.manifest.lam)
        if lam < 1.0:
            raise FormatError(
                f"{self.path} has lambda = {lam:g}: only a fully quantized model (lambda = 1) can "
                "be converted; train it on, or evaluate it as it is with wf-eval"
            )
        eps = self.quantization.subln_eps
        if eps is not None and eps != self.config.get("rms_norm_eps"):
            raise FormatError(
                f"{self.path}: subln_eps {eps:g} differs from rms_norm_eps "
                f"{self.config.get('rms_norm_eps')}; a GGUF file has one epsilon for all norms"
            )

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

    @property
    def names(self) -> list[str]:
        return list(self._files)

    @property
    def num_bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.stat().st_size for file in set(self._files.values()))

    def is_ternary(self, weight_name: str) -> bool:
        """False for embeddings and heads, and for projections that the artifact keeps in float."""
        kept = self.quantization.modules_to_not_convert if self.quantization else ()
        module = weight_name.removesuffix(".weight")
        return is_projection(weight_name) and not any(
            f".{entry}." in f".{module}." for entry in kept
        )

    def file_of(self, name: str) -> Path:
        return self._files[name]

    def shape(self, name: str) -> tuple[int, ...]:
        with safe_open(self._files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """Values of a tensor as float32 (exact for float32, float16 and bfloat16 checkpoints)."""
        with safe_open(self._files[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise FormatError(
                f"{self._files[name]}: tensor {name} has dtype {tensor.dtype}; "
                "float32, float16 and bfloat16 are read"
            )
        array: np.ndarray = tensor.float().numpy()
        if not np.isfinite(array).all():
            raise FormatError(f"{self._files[name]}: tensor {name} has NaN or infinite values")
        return array


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; one-line error if it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing: {path.parent} is not a Hugging Face model directory"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path} is not a JSON object")
    return value


def _quantization(path: Path, config: dict[str, Any]) -> QuantConfig | None:
    """The artifact's quantization settings, None for a plain float checkpoint."""
    fields = config.get("quantization_config")
    if fields is None:
        return None
    method = fields.get("quant_method")
    if method != QUANT_METHOD:
        raise FormatError(
            f"{path}: quant_method {method!r} cannot be converted; "
            "supported: wrinklefree artifacts and plain float checkpoints"
        )
    return QuantConfig.from_json(fields)


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
