"""PEP 517 backend: scikit-build-core, plus the question where torch's headers are.

libwf_ops.so is built on torch's stable ABI and needs only headers of a torch >= 2.10. When the
environment that runs the build already holds one, a second torch in the isolated build environment
would cost gigabytes for nothing; so torch becomes a build requirement only when no header is found.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import Any

from scikit_build_core import build as _skbuild

MIN_TORCH = (2, 10)


def _torch_include() -> Path | None:
    """Include directory of a torch that is new enough, or None."""
    given = os.environ.get("WF_TORCH_INCLUDE")
    if given:
        return Path(given)
    for scheme in ("purelib", "platlib"):
        # Inside pip's build isolation this is still the outer environment's site-packages.
        torch = Path(sysconfig.get_path(scheme)) / "torch"
        version = torch / "version.py"
        if not (torch / "include/torch/csrc/stable/library.h").is_file() or not version.is_file():
            continue
        for line in version.read_text().splitlines():
            if line.startswith("__version__"):
                major, minor = line.split("'")[1].split(".")[:2]
                if (int(major), int(minor)) >= MIN_TORCH:
                    return torch / "include"
    return None


def _with_include(config_settings: dict[str, Any] | None) -> dict[str, Any]:
    settings = dict(config_settings or {})
    include = _torch_include()
    if include is not None:
        settings.setdefault("cmake.define.WF_TORCH_INCLUDE", str(include))
    return settings


def _requires(base: list[str]) -> list[str]:
    wants_torch = os.environ.get("WF_TORCH", "ON").upper() not in ("OFF", "0", "NO")
    return [*base, "torch>=2.10"] if wants_torch and _torch_include() is None else base


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _requires(_skbuild.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _requires(_skbuild.get_requires_for_build_editable(config_settings))


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    return list(_skbuild.get_requires_for_build_sdist(config_settings))


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    return _skbuild.build_wheel(wheel_directory, _with_include(config_settings), metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    return _skbuild.build_editable(
        wheel_directory, _with_include(config_settings), metadata_directory
    )


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    return _skbuild.build_sdist(sdist_directory, config_settings)
