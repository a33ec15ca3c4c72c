"""Every op has a native kernel, a sample, a line in the docs, and passes opcheck."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import wrinklefree.ops

DOCS = Path(__file__).parents[2] / "docs" / "ops.md"


def _load_samples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("samples", Path(__file__).with_name("samples.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAMPLES = _load_samples().samples()
OPS = sorted(
    name.split("::")[1]
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("wrinklefree::")
)


def test_the_namespace_is_the_public_module() -> None:
    assert sorted(SAMPLES) == OPS
    assert all(callable(getattr(wrinklefree.ops, name)) for name in OPS)


@pytest.mark.parametrize("name", OPS)
def test_has_a_native_cpu_kernel_and_a_doc_line(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"wrinklefree::{name}", "CPU")
    assert f"`{name}" in DOCS.read_text()


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str) -> None:
    for arguments in SAMPLES[name]:
        torch.library.opcheck(getattr(torch.ops.wrinklefree, name).default, arguments)
