"""Loads libwf_ops.so and libwf_ops_cuda.so into torch, and remembers why it could not."""

from __future__ import annotations

from pathlib import Path

import torch

import wrinklefree

LIBRARY = "libwf_ops.so"
CUDA_LIBRARY = "libwf_ops_cuda.so"


def _find(name: str) -> Path | None:
    # An editable install keeps Python files and libraries in different places of __path__.
    for folder in wrinklefree.__path__:
        path = Path(folder) / name
        if path.is_file():
            return path
    return None


def _load(name: str, why_missing: str) -> str | None:
    path = _find(name)
    if path is None:
        return f"{name} was not built ({why_missing})"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"{path} cannot be loaded: {error}"
    return None


def _load_cuda() -> str | None:
    # A torch with CUDA has the symbols even where there is no device; one without lacks them.
    if torch.version.cuda is None and _find(CUDA_LIBRARY) is not None:
        return "built, not loaded: this torch has no CUDA"
    return _load(CUDA_LIBRARY, "WF_CUDA=OFF, or no nvcc at build time")


_failure = _load(LIBRARY, "WF_TORCH=OFF, or no torch headers at build time")
_cuda_failure = _load_cuda() if _failure is None else _failure


def require() -> None:
    """Raises ImportError with the reason when the native ops are not there."""
    if _failure is not None:
        raise ImportError(f"the wrinklefree torch ops are not available: {_failure}")


def status() -> dict[str, str]:
    """For `wf doctor`: whether the ops are loaded, and why not."""
    return {"torch ops": _failure or "loaded", "CUDA kernels": _cuda_failure or "loaded"}
