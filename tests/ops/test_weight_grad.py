"""The weight gradient from int8 codes against float64 sums of the same rounded operands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from wrinklefree import ops

TYPES = [torch.bfloat16, torch.float32]


def operands(
    rows: int, n: int, k: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * n + k)
    grad = torch.randn(rows, n, generator=generator).to(dtype)
    q = torch.randint(-127, 128, (rows, k + 3), generator=generator, dtype=torch.int8)
    return grad, q, torch.rand(rows, generator=generator) / 127


def has_pair_products() -> bool:
    """AVX512-BF16 without AMX, and no WF_ISA that forbids it."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    isa = os.environ.get("WF_ISA", "avx512")
    return "avx512_bf16" in flags and "amx_bf16" not in flags and isa.startswith("avx512")


def check(found: torch.Tensor, grad: torch.Tensor, q: torch.Tensor, scale: torch.Tensor) -> None:
    """Within float32 rounding of the exact sums; torch's product of bfloat16 is rounded to it."""
    x = (q[:, : found.shape[1]].float() * scale[:, None]).to(grad.dtype).double()
    is_rounded = grad.dtype == torch.bfloat16 and not has_pair_products()
    grad = grad.double()
    exact = grad.T @ x
    bound = 2e-6 * (grad.abs().T @ x.abs()) + 1e-30
    if is_rounded:
        bound += exact.abs() / 256
    assert found.dtype == torch.float32
    assert ((found.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("k", [1, 15, 16, 33, 48, 130])
@pytest.mark.parametrize("n", [1, 7, 9, 16, 17, 33])
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_odd_shapes(rows: int, n: int, k: int, dtype: torch.dtype) -> None:
    grad, q, scale = operands(rows, n, k, dtype)
    check(ops.ternary_weight_grad(grad, q, scale, k), grad, q, scale)


@pytest.mark.parametrize("rows", [1023, 1024, 1025, 2051])
def test_many_rows_are_added_in_parts(rows: int) -> None:
    grad, q, scale = operands(rows, 19, 70, torch.bfloat16)
    check(ops.ternary_weight_grad(grad, q, scale, 70), grad, q, scale)


def test_no_row_gives_zeros() -> None:
    grad, q, scale = operands(0, 19, 70, torch.bfloat16)
    found = ops.ternary_weight_grad(grad, q, scale, 70)
    assert found.shape == (19, 70)
    assert not found.any()


@pytest.mark.parametrize("dtype", TYPES)
def test_zeros_extremes_and_nan(dtype: torch.dtype) -> None:
    grad, q, scale = operands(40, 20, 36, dtype)
    grad[3], q[5], grad[6], scale[6] = 0, -128, 1e25, 1e10
    check(ops.ternary_weight_grad(grad, q, scale, 36), grad, q, scale)
    grad[:, 2] = 0
    grad[7, 4] = torch.inf
    found = ops.ternary_weight_grad(grad, q, scale, 36)
    assert not found[2].any()
    assert (~found[4].isfinite()).all()
    others = [row for row in range(20) if row != 4]
    assert found[others].isfinite().all()
    scale[8] = torch.nan  # of a row of activations that was not finite
    assert ops.ternary_weight_grad(grad, q, scale, 36).isnan()[others].all()


@pytest.mark.parametrize("dtype", TYPES)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    grad, q, scale = operands(34, 24, 40, dtype)
    expected = ops.ternary_weight_grad(grad, q, scale, 40)
    wide = torch.stack([grad, grad], dim=-1)[..., 1]
    turned = grad.T.contiguous().T
    batched = grad.reshape(2, 17, 24)
    padded = torch.zeros(34, 50, dtype=torch.int8)
    padded[:, 5:48] = q
    for same_grad, same_q in (
        (wide, q),
        (turned, q),
        (batched, q),
        (batched.transpose(0, 1).contiguous().transpose(0, 1), q),
        (grad, padded[:, 5:48]),
    ):
        assert torch.equal(ops.ternary_weight_grad(same_grad, same_q, scale, 40), expected)
    one = grad[:1].expand(34, -1)
    check(ops.ternary_weight_grad(one, q, scale, 40), one, q, scale)


def test_threads_do_not_change_bits() -> None:
    grad, q, scale = operands(1100, 100, 130, torch.bfloat16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(ops.ternary_weight_grad(grad, q, scale, 130))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        # Where a library multiplies, its sums are its own affair.
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)


def test_operands_that_do_not_fit_are_refused() -> None:
    grad, q, scale = operands(4, 5, 6, torch.float32)
    for bad in ((grad[:3], q, scale, 6), (grad, q, scale, 10), (grad, q.float(), scale, 6)):
        with pytest.raises(RuntimeError, match="ternary_weight_grad: expected int8 codes"):
            ops.ternary_weight_grad(*bad)
