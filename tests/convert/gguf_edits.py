"""GGUF files with changed metadata or tensors, from a float file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from wrinklefree import _engine


def rewrite_gguf(
    source: Path,
    target: Path,
    *,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
    architecture: str = "llama",
    prefix: str | None = None,
) -> Path:
    """`source`, a float32 file of architecture llama, with changes; a None drops the entry.

    `prefix` replaces "llama." at the front of keys.
    """
    file = _engine.GgufFile(str(source))
    writer = gguf.GGUFWriter(target, architecture)
    metadata = file.metadata
    metadata.pop("general.architecture")
    if prefix is not None:
        metadata = {k.replace("llama.", prefix): value for k, value in metadata.items()}
    for key, value in {**metadata, **(keys or {})}.items():
        _add(writer, key, value)
    arrays: dict[str, np.ndarray | None] = {
        t.name: file.read(t.name).view(np.float32).reshape(t.shape) for t in file.tensors
    }
    for name, array in {**arrays, **(tensors or {})}.items():
        if array is not None:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, int):
        writer.add_int64(key, value) if value < 0 else writer.add_uint32(key, value)
    else:
        assert value is None  # dropped
