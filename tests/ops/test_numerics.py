"""Ops against reference.py: integers exactly, floats bit for bit (one fixed expression each)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from wrinklefree import ops, reference

ROWS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 33, 64, 65]
COLUMNS = [1, 3, 31, 127, 128, 129, 255, 256, 257, 2560, 6912]


def random_codes(n: int, k: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (n, k), generator=generator, dtype=torch.int8)


def random_x(m: int, k: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed))


def pack(codes: torch.Tensor, layout: ops.KernelLayout = "t2") -> torch.Tensor:
    return ops.pack_ternary(codes, torch.tensor(1.0), layout)


layouts = pytest.mark.parametrize("layout", ["t2", "t1", "lut"])


@layouts
@pytest.mark.parametrize("m", ROWS)
def test_sums_are_exact_and_rows_independent(m: int, layout: ops.KernelLayout) -> None:
    codes = random_codes(63, 257)
    packed = pack(codes, layout)
    q = torch.randint(-128, 128, (m, 257), dtype=torch.int8, generator=torch.Generator())
    acc = ops.ternary_matmul_int32(q, packed, 63, layout=layout)
    assert torch.equal(acc, reference.ternary_matmul_int32(q, codes))
    one_by_one = [
        ops.ternary_matmul_int32(q[r : r + 1], packed, 63, layout=layout) for r in range(m)
    ]
    assert torch.equal(acc, torch.cat(one_by_one))


@layouts
@pytest.mark.parametrize("k", COLUMNS)
@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 63])
def test_linear_equals_reference_bit_for_bit(n: int, k: int, layout: ops.KernelLayout) -> None:
    codes, scale, x = random_codes(n, k), torch.tensor(0.037), random_x(3, k)
    bias = random_x(1, n, seed=2)[0]
    y = ops.ternary_linear(x, pack(codes, layout), scale, n, bias, layout=layout)
    assert torch.equal(y, reference.ternary_linear(x, codes, scale, bias))


@layouts
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("q_value", [127, -127, -128])
def test_extremes_do_not_saturate(sign: int, q_value: int, layout: ops.KernelLayout) -> None:
    k = 16384
    codes = torch.full((17, k), sign, dtype=torch.int8)
    q = torch.full((5, k), q_value, dtype=torch.int8)
    acc = ops.ternary_matmul_int32(q, pack(codes, layout), 17, layout=layout)
    assert (acc == sign * q_value * k).all()


def test_special_rows_change_no_other_row() -> None:
    x = random_x(6, 129)
    plain = ops.ternary_linear(x, pack(random_codes(9, 129)), torch.tensor(0.5), 9)
    x[1] = 0
    x[2] = 0
    x[2, 5] = 1e-30
    x[4] = 1e-40
    y = ops.ternary_linear(x, pack(random_codes(9, 129)), torch.tensor(0.5), 9)
    assert (y[1] == 0).all()
    assert torch.isfinite(y).all()
    for row in (0, 3, 5):
        assert torch.equal(y[row], plain[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activations_in_every_float_type(dtype: torch.dtype) -> None:
    x = random_x(4, 100).to(dtype)
    x[2, 3] = 6e4
    q, scale = ops.quantize_act_int8(x)
    expected_q, expected_scale = reference.quantize_act_int8(x)
    assert torch.equal(q, expected_q)
    assert torch.equal(scale, expected_scale)
    for lam in (0.3, 1.0):
        assert torch.equal(ops.fake_quant_act(x, lam), reference.fake_quant_act(x, lam))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_weights_of_every_float_type_keep_it(dtype: torch.dtype, lam: float) -> None:
    w = random_x(19, 77).to(dtype).requires_grad_()
    blended = ops.fake_quant_ternary(w, lam)
    assert blended.dtype == dtype
    assert torch.equal(blended.detach(), reference.fake_quant_ternary(w.detach(), lam))
    blended.sum().backward()
    assert w.grad is not None
    assert torch.equal(w.grad, torch.ones_like(w))


def test_results_larger_than_the_caches_are_the_same() -> None:
    big = random_x(1030, 8195)  # 34 MB, and no row begins at a multiple of 32 bytes
    codes, scale = ops.ternary_quantize(big)
    assert torch.equal(ops.fake_quant_ternary(big, 1.0), codes * scale)
    halves = [ops.fake_quant_act(half, 0.3) for half in big.split(515)]
    assert torch.equal(ops.fake_quant_act(big, 0.3), torch.cat(halves))


@pytest.mark.parametrize(
    "view",
    [
        lambda big: big[::2, 3:103],
        lambda big: big[:100, :8].t(),
        lambda big: big[:1, 5:105].expand(4, 100),
        lambda big: big.flatten()[7 : 7 + 300].reshape(3, 100),
    ],
    ids=["sliced", "transposed", "expanded", "offset"],
)
def test_strides_do_not_matter(view: object) -> None:
    assert callable(view)
    x = view(random_x(128, 128))
    k = x.shape[-1]
    codes, scale = random_codes(7, k), torch.tensor(0.5)
    for op in (
        lambda v: ops.quantize_act_int8(v)[0],
        lambda v: ops.ternary_linear(v, pack(codes), scale, 7),
        lambda v: ops.fake_quant_act(v, 0.3),
        lambda v: ops.fake_quant_ternary(v, 0.3),
        lambda v: ops.ternary_quantize(v)[0],
    ):
        assert torch.equal(op(x), op(x.contiguous()))


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_fake_quant_and_its_gradient(lam: float) -> None:
    w = random_x(19, 77).requires_grad_()
    blended = ops.fake_quant_ternary(w, lam)
    expected = reference.fake_quant_ternary(w.detach(), lam)
    assert torch.equal(blended.detach(), expected)
    upstream = random_x(19, 77, seed=3)
    blended.backward(upstream)
    assert w.grad is not None
    assert torch.equal(w.grad, upstream)


def test_threads_do_not_change_bits() -> None:
    x, codes, w = random_x(33, 640), random_codes(640, 640), random_x(640, 640, seed=4)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            y = ops.ternary_linear(x, pack(codes), torch.tensor(0.1), 640)
            results.append((y, ops.fake_quant_ternary(w, 0.5), ops.ternary_quantize(w)[1]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_graph_break(backend: str) -> None:
    codes = random_codes(8, 48)
    packed = pack(codes)

    def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = ops.ternary_linear(x, packed, torch.tensor(0.5), 8)
        return y + ops.fake_quant_act(x, 0.5) @ ops.fake_quant_ternary(w, 0.5).T

    x, w = random_x(3, 48), random_x(8, 48, seed=2)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x, w), layer(x, w))


def test_a_bad_isa_is_an_exception_that_lists_what_is_there() -> None:
    code = "import torch; from wrinklefree import ops; ops.quantize_act_int8(torch.ones(1, 4))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "WF_ISA": "avx3"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "avx3" in result.stderr
    assert "scalar" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 33), (19, 130)])
def test_gptq_rounds_as_the_reference(n: int, k: int) -> None:
    w, x = random_x(n, k), random_x(4 * k, k, seed=1)
    hessian = x.T @ x + torch.eye(k)
    spread = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    unrounded, codes = ops.gptq_round(w, spread, 0.6, 1.2)
    expected_unrounded, expected_codes = reference.gptq_round(w, spread, 0.6, 1.2)
    assert torch.equal(codes, expected_codes)
    assert torch.equal(unrounded, expected_unrounded)


def test_gptq_without_correlation_rounds_each_weight() -> None:
    w = random_x(9, 40)
    unrounded, codes = ops.gptq_round(w, torch.eye(40), 0.6, 1.2)
    assert torch.equal(unrounded, w)
    assert torch.equal(codes, ((w.abs() > 0.6) * w.sign()).to(torch.int8))


@pytest.mark.parametrize("spread", [torch.eye(4), torch.ones(5)])
def test_gptq_refuses_a_factor_of_another_size(spread: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="expected spread"):
        ops.gptq_round(torch.ones(2, 5), spread, 0.6, 1.2)
