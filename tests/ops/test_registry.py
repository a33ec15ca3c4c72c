"""Every op has a native kernel, a sample and a doc line, passes opcheck, compiles and exports."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

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


class Call(torch.nn.Module):
    """An op on one input; the other arguments are constants of the module, as weights are."""

    def __init__(self, name: str, rest: tuple[Any, ...]) -> None:
        super().__init__()
        self.op = getattr(torch.ops.wrinklefree, name).default
        self.rest = rest

    def forward(self, x: torch.Tensor) -> Any:
        return self.op(x, *self.rest)


def _assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", OPS)
def test_compiles_into_one_graph(name: str) -> None:
    for x, *rest in SAMPLES[name]:
        torch.compiler.reset()
        call = Call(name, tuple(rest))
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        _assert_same(compiled(x), call(x))


# The packed bytes of one matrix have no batch; codes have that of their scales, and gradients that
# of what they are gradients of.
WITHOUT_BATCH = ("unpack_ternary", "ternary_weight_grad", "rms_norm_backward")


@pytest.mark.parametrize("name", OPS)
def test_exports_with_a_dynamic_batch(name: str) -> None:
    for x, *rest in SAMPLES[name]:
        call, x = Call(name, tuple(rest)), x.detach()
        has_batch = x.dim() > 1 and x.shape[0] > 1 and name not in WITHOUT_BATCH
        shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)} if has_batch else None}
        program = torch.export.export(call, (x,), dynamic_shapes=shapes)
        assert f"wrinklefree.{name}" in program.graph_module.code
        for repeats in (1, 4) if has_batch else (1,):
            batch = x.repeat(repeats, *[1] * (x.dim() - 1))
            _assert_same(program.module()(batch), call(batch))
