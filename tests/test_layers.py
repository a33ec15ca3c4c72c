"""Two wings that meet only in the artifact: what may be imported where, checked on live imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "datasets", "hydra", "omegaconf", "accelerate"]


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(m.split('.')[0] for m in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["wrinklefree", "wrinklefree.engine", "wrinklefree.serve", "wrinklefree.cli.main"],
)
def test_native_wing_loads_no_torch(module: str) -> None:
    assert modules_after(f"import {module}").isdisjoint(HEAVY)


def test_importing_the_package_is_light() -> None:
    loaded = modules_after("import wrinklefree")
    assert "numpy" not in loaded
    assert modules_after("import wrinklefree.engine") >= {"numpy"}, "the probe sees imports"


def test_importing_the_torch_wing_initialises_no_cuda() -> None:
    code = (
        "import torch, wrinklefree.models, wrinklefree.training;"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
