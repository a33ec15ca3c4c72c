"""Opens whatever wf-convert reads."""

from __future__ import annotations

from pathlib import Path

from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.hf_source import HfSource, Projections
from wrinklefree.convert.source import Source, refuse_float_model
from wrinklefree.errors import UsageError


def open_source(
    path: Path, *, ternarize: bool = False, i2s_group: int = 128, may_be_float: bool = False
) -> Source:
    """The model at `path`, a directory or a GGUF file.

    Raises FormatError listing all projections that are not ternary, unless `ternarize` makes them
    so; `may_be_float` lets a float GGUF file pass as what it is.
    """
    if path.is_dir():
        if i2s_group != 128:
            raise UsageError(f"{path} is a directory: --i2s-group belongs to GGUF files")
        directory = HfSource(path, ternarize=ternarize)
        if directory.projections is Projections.PLAIN and not ternarize:
            refuse_float_model(directory)
        return directory
    file = GgufSource(path, ternarize=ternarize, i2s_group=i2s_group)
    if file.is_float_model and not may_be_float:
        refuse_float_model(file)
        file.take_as_ternary()
    return file
