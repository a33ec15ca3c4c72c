"""Writes a planned GGUF file, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from wrinklefree.convert import gguf_names as names
from wrinklefree.convert.codec import dense_bytes, encode
from wrinklefree.convert.plan import Plan, PlannedTensor
from wrinklefree.convert.ternary_check import Ternary

Progress = Callable[[int, int, str], None]  # tensors done, tensors in all, name


def silent(done: int, total: int, name: str) -> None:
    """The progress of a caller who does not want to see any."""


def write_gguf(plan: Plan, path: Path, progress: Progress = silent) -> None:
    """Writes the file of `plan` to `path` (use `atomic.new_file` for a path that appears whole)."""
    writer = GGUFWriter(path, plan.architecture.name)
    try:
        add_keys(writer, plan.metadata)
        for tensor in plan.tensors:
            # The dtype only has to differ from uint8: then the writer keeps the shape as it is.
            writer.add_tensor_info(
                tensor.gguf_name,
                tensor.shape,
                np.dtype(np.float32),
                tensor.num_bytes,
                raw_dtype=tensor.type.type_id,  # type: ignore[arg-type]  # I2_S is not in its enum
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, tensor in enumerate(plan.tensors):
            progress(index, len(plan.tensors), tensor.gguf_name)
            writer.write_tensor_data(tensor_bytes(plan, tensor))
        progress(len(plan.tensors), len(plan.tensors), "")
        writer.flush()
    finally:
        writer.close()


def tensor_bytes(plan: Plan, tensor: PlannedTensor) -> np.ndarray:
    """The bytes of one tensor, uint8."""
    if tensor.is_ternary:
        return encode(file_ternary(plan, tensor), tensor.type, tensor.gguf_name)
    if tensor.values is not None:
        return dense_bytes(np.asarray(tensor.values, np.float32), tensor.type)
    return dense_bytes(_file_rows(plan, tensor, plan.source.read(tensor.hf_name)), tensor.type)


def file_ternary(plan: Plan, tensor: PlannedTensor) -> Ternary:
    """Codes, in the file's row order, and scale of a ternary tensor of the source."""
    ternary = plan.source.ternary(tensor.hf_name)
    return Ternary(_file_rows(plan, tensor, ternary.codes), ternary.scale)


def _file_rows(plan: Plan, tensor: PlannedTensor, rows: np.ndarray) -> np.ndarray:
    heads = names.qk_heads(tensor.hf_name, plan.source.config)
    if heads is None or not plan.architecture.permutes_qk:
        return rows
    return names.interleave_halves(rows, heads)


def add_keys(writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Adds keys with the GGUF type of their Python type (the architecture is there already)."""
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
