"""Two wings that meet only in the artifact: what may be imported where, checked on live imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_evaluating_a_file_loads_no_torch(data_dir: Path) -> None:
    model = data_dir / "stories260k_hf" / "stories260K-f32.gguf"
    arguments = [str(model), "--tasks", "sst2", "--data", str(data_dir), "--limit", "2", "--json"]
    code = f"from wrinklefree.cli.eval import main; main({arguments}, standalone_mode=False)"
    loaded = modules_after(code)
    assert "wrinklefree" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_the_torch_wing_initialises_no_cuda() -> None:
    code = (
        "import torch, wrinklefree.models, wrinklefree.training;"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
