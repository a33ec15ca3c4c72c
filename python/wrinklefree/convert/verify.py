"""Does a written model hold what its source holds? Tensors, metadata, token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree import _engine
from wrinklefree.convert.codec import decode, stored_scale
from wrinklefree.convert.corpus import STRINGS, around
from wrinklefree.convert.hf_source import HfSource
from wrinklefree.convert.plan import Plan, PlannedTensor
from wrinklefree.convert.source import Source
from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.convert.to_gguf import Progress, file_ternary, silent, tensor_bytes
from wrinklefree.convert.to_hf import Form, stored_bias
from wrinklefree.convert.to_hf import stored_scale as directory_scale
from wrinklefree.engine.tokenizer import Tokenizer, read_backend
from wrinklefree.errors import FormatError, VerificationError

_MAX_ADDED = 40  # added tokens that are tried, from the first and from the last


def verify_tensors(plan: Plan, path: Path, progress: Progress = silent) -> int:
    """Reads the file back and compares every tensor; returns how many.

    Codes must be equal, scales equal after the type's rounding, float tensors equal byte for byte.
    Raises VerificationError that lists every tensor that differs.
    """
    file = _engine.GgufFile(str(path))
    infos = {info.name: info for info in file.tensors}
    wrong = sorted(infos.keys() ^ {tensor.gguf_name for tensor in plan.tensors})
    for index, tensor in enumerate(plan.tensors):
        progress(index, len(plan.tensors), tensor.gguf_name)
        info = infos.get(tensor.gguf_name)
        if info is None:
            continue
        has_form = (info.type, tuple(info.shape)) == (tensor.type.name, tensor.shape)
        if not has_form or not _is_same(plan, tensor, file.read(tensor.gguf_name)):
            wrong.append(tensor.gguf_name)
    progress(len(plan.tensors), len(plan.tensors), "")
    if wrong:
        raise VerificationError(
            f"{len(wrong)} tensor(s) of the written file differ from the source: {', '.join(wrong)}"
        )
    return len(plan.tensors)


def _is_same(plan: Plan, tensor: PlannedTensor, raw: np.ndarray) -> bool:
    if not tensor.is_ternary:
        return np.array_equal(raw, tensor_bytes(plan, tensor))
    ternary = file_ternary(plan, tensor)
    scale = stored_scale(ternary, tensor.type, tensor.gguf_name)
    try:
        found = decode(raw, tensor.type, tensor.shape, tensor.gguf_name)
    except FormatError:  # bytes that are no ternary matrix at all
        return False
    return _equal(found, Ternary(ternary.codes, scale))


def verify_metadata(plan: Plan, path: Path) -> None:
    """Reads the file's keys back. Raises VerificationError that lists every key that differs."""
    found = _engine.GgufFile(str(path)).metadata
    wrong = [
        key
        for key in sorted(found.keys() | plan.metadata.keys())
        if found.get(key) != _as_stored(plan.metadata.get(key))
    ]
    if wrong:
        raise VerificationError(f"keys of the written file differ: {', '.join(wrong)}")


def _as_stored(value: Any) -> Any:
    """A file's floats are float32."""
    if isinstance(value, list):
        return [_as_stored(item) for item in value]
    return float(np.float32(value)) if isinstance(value, float) else value


def verify_directory(source: Source, directory: Path, form: Form = Form.ARTIFACT) -> int:
    """Compares every tensor of a directory with the source it comes from; returns how many.

    Projections must have the source's codes and scale, other values must be equal. Raises
    VerificationError that lists every tensor that differs.
    """
    written = HfSource(directory)
    wrong = sorted(set(written.names) ^ set(source.names))
    for name in set(written.names) & set(source.names):
        if source.is_ternary(name):
            wanted = source.ternary(name)
            wanted = Ternary(wanted.codes, directory_scale(wanted, form))
            is_same = written.is_ternary(name) and _equal(written.ternary(name), wanted)
        else:
            is_same = np.array_equal(written.stored(name), stored_bias(source, form, name))
        if not is_same:
            wrong.append(name)
    if wrong:
        raise VerificationError(
            f"{len(wrong)} tensor(s) of the written directory differ: {', '.join(sorted(wrong))}"
        )
    return len(written.names)


def _equal(found: Ternary, wanted: Ternary) -> bool:
    """Equal codes and scale; the scale of an all-zero matrix says nothing."""
    return np.array_equal(found.codes, wanted.codes) and (
        found.scale == wanted.scale or not wanted.codes.any()
    )


def verify_tokens(directory: Path, path: Path) -> int:
    """Compares token ids of the file's tokenizer with those of tokenizer.json; returns the number
    of strings. Raises VerificationError with the first string that differs."""
    ours = Tokenizer.from_gguf(_engine.GgufFile(str(path)).metadata)
    theirs = read_backend(directory / "tokenizer.json")
    added = [token.content for token in theirs.get_added_tokens_decoder().values()]
    # A model may have thousands of reserved tokens that differ in nothing but a number.
    texts = (*STRINGS, *around(added[:_MAX_ADDED]), *around(added[-_MAX_ADDED:]))
    for text in texts:
        found = ours.encode(text, add_special=True, parse_special=True)
        wanted = theirs.encode(text).ids
        if found != wanted:
            raise VerificationError(
                f"the file's tokenizer gives {found} for {text!r}, tokenizer.json gives {wanted}"
            )
    return len(texts)
