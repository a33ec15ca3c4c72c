"""Loads libwf_ops.so into torch, and remembers why it could not."""

from __future__ import annotations

from pathlib import Path

import torch

import wrinklefree

LIBRARY = "libwf_ops.so"
_failure: str | None = None


def _find(name: str) -> Path | None:
    # An editable install keeps Python files and libraries in different places of __path__.
    for folder in wrinklefree.__path__:
        path = Path(folder) / name
        if path.is_file():
            return path
    return None


def _load() -> str | None:
    path = _find(LIBRARY)
    if path is None:
        return f"{LIBRARY} was not built (WF_TORCH=OFF, or no torch headers at build time)"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{path} cannot be loaded: {error}"
    return None


_failure = _load()


def require() -> None:
    """Raises ImportError with the reason when the native ops are not there."""
    if _failure is not None:
        raise ImportError(f"the wrinklefree torch ops are not available: {_failure}")


def status() -> dict[str, str]:
    """For `wf doctor`: whether the ops are loaded, and why not."""
    return {"torch ops": "loaded" if _failure is None else _failure}
