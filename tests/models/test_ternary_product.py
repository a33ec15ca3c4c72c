"""The product at lambda 1: the engine's integers forward, straight-through gradients backward."""

from __future__ import annotations

import pytest
import torch

from wrinklefree import ops, reference
from wrinklefree.models.blend import Blend
from wrinklefree.models.subln import SubLN
from wrinklefree.models.ternary_product import has_ternary_product, ternary_product

ROWS, INPUTS, OUTPUTS = 37, 130, 50


@pytest.fixture
def x_MK() -> torch.Tensor:
    return torch.randn(ROWS, INPUTS, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def w_NK() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (0.1 * torch.randn(OUTPUTS, INPUTS, generator=generator)).requires_grad_()


def served(x_MK: torch.Tensor, w_NK: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    codes, scale = ops.ternary_quantize(w_NK.detach())
    return reference.ternary_linear(x_MK.detach(), codes, scale, bias)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 37, 300])
def test_the_result_is_what_is_served(w_NK: torch.Tensor, rows: int, has_bias: bool) -> None:
    x_MK = torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(2))
    bias = torch.randn(OUTPUTS) if has_bias else None
    expected = served(x_MK, w_NK, bias)
    assert torch.equal(ternary_product(x_MK, w_NK, bias), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = ternary_product(x_MK, w_NK, bias)
    assert torch.equal(rounded, expected.to(torch.bfloat16))


def test_bfloat16_activations_are_read_as_they_are(w_NK: torch.Tensor) -> None:
    x_MK = torch.randn(5, INPUTS).to(torch.bfloat16)
    y = ternary_product(x_MK, w_NK, None)
    assert torch.equal(y, served(x_MK.float(), w_NK, None).to(torch.bfloat16))


def test_gradients_are_those_of_the_quantized_operands(
    x_MK: torch.Tensor, w_NK: torch.Tensor
) -> None:
    bias = torch.randn(OUTPUTS, requires_grad=True)
    upstream = torch.randn(ROWS, OUTPUTS)
    ternary_product(x_MK, w_NK, bias).backward(upstream)
    x_hat, w_hat = (
        reference.fake_quant_act(x_MK.detach(), 1.0),
        reference.fake_quant_ternary(w_NK.detach(), 1.0),
    )
    torch.testing.assert_close(x_MK.grad, upstream @ w_hat)
    torch.testing.assert_close(w_NK.grad, upstream.T @ x_hat)
    torch.testing.assert_close(bias.grad, upstream.sum(0))


def test_a_norm_before_it_is_part_of_it(x_MK: torch.Tensor, w_NK: torch.Tensor) -> None:
    """The bits of the norm and then the product, and their gradients."""
    norm = SubLN(INPUTS, eps=1e-5, blend=Blend(1.0))
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    upstream = torch.randn(ROWS, OUTPUTS)
    inputs = (x_MK, w_NK, norm.weight)
    apart, together = (
        ternary_product(norm(x_MK), w_NK, None),
        ternary_product(x_MK, w_NK, None, norm=norm),
    )
    assert torch.equal(together, apart)
    for found, expected in zip(
        torch.autograd.grad(together, inputs, upstream),
        torch.autograd.grad(apart, inputs, upstream),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_only_one_byte_an_activation_is_kept(x_MK: torch.Tensor, w_NK: torch.Tensor) -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ternary_product(x_MK, w_NK, None)
    fresh = sum(t.numel() * t.element_size() for t in kept if t.data_ptr() != w_NK.data_ptr())
    padded = 192  # whole cache lines a row
    assert fresh == ROWS * (padded + 4) + 4


def test_a_frozen_weight_gets_no_gradient(x_MK: torch.Tensor, w_NK: torch.Tensor) -> None:
    w_NK.requires_grad_(False)
    ternary_product(x_MK, w_NK, None).sum().backward()
    assert x_MK.grad is not None
    assert w_NK.grad is None


def test_compiles_without_graph_break(x_MK: torch.Tensor, w_NK: torch.Tensor) -> None:
    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ternary_product(x, w, None).square().sum()

    expected = torch.autograd.grad(loss(x_MK, w_NK), (x_MK, w_NK))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, goal in zip(
        torch.autograd.grad(compiled(x_MK, w_NK), (x_MK, w_NK)), expected, strict=True
    ):
        torch.testing.assert_close(found, goal)


def test_other_types_are_left_to_floats(x_MK: torch.Tensor, w_NK: torch.Tensor) -> None:
    assert has_ternary_product(x_MK, w_NK)
    assert not has_ternary_product(x_MK.double(), w_NK.double())
    assert not has_ternary_product(x_MK.to("meta"), w_NK.to("meta"))


def input_grads(seeds: range, grad: torch.Tensor, w_NK: torch.Tensor) -> torch.Tensor:
    packed, scale = ops.ternary_pack(w_NK.detach())
    return torch.stack(
        [ops.ternary_input_grad(grad, packed, scale, INPUTS, seed, torch.float32) for seed in seeds]
    )


@pytest.mark.parametrize("size", [1.0, 1e-9])
def test_int8_input_gradients_are_right_in_the_mean(w_NK: torch.Tensor, size: float) -> None:
    """z-scores of the mean of 2000 draws: as small as those of unbiased draws are."""
    grad = size * torch.randn(4, OUTPUTS, generator=torch.Generator().manual_seed(3))
    exact = grad.double() @ reference.fake_quant_ternary(w_NK.detach(), 1.0).double()
    draws = input_grads(range(2000), grad, w_NK).double()
    error = draws.mean(0) - exact
    z = error / (draws.std(0) / 2000**0.5)
    assert float(z.abs().max()) < 5.0  # 520 values: 4.0 is exceeded once in 30 runs, 5 in 3000
    assert 0.7 < float(z.square().mean()) < 1.3  # about 200 independent values
    # One draw is off by no more than one step of each code.
    step = grad.abs().amax(-1, keepdim=True) / 127
    scale = float(ops.ternary_pack(w_NK.detach())[1])
    assert ((draws[0] - exact).abs() <= step * scale * OUTPUTS).all()


def test_int8_input_gradients_do_not_depend_on_threads_and_rows(w_NK: torch.Tensor) -> None:
    grad = torch.randn(ROWS, OUTPUTS)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(input_grads(range(2), grad, w_NK))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
    assert not torch.equal(*results[0])  # the seed matters
    same_rows = grad[:1].expand(2, -1)
    first, second = input_grads(range(1), same_rows, w_NK)[0]
    assert not torch.equal(first, second)  # and rows draw apart


def test_a_bad_row_poisons_its_own_input_gradient_only(w_NK: torch.Tensor) -> None:
    grad = torch.randn(3, OUTPUTS)
    expected = input_grads(range(1), grad, w_NK)[0]
    grad[1, 4] = torch.inf
    found = input_grads(range(1), grad, w_NK)[0]
    assert found[1].isnan().all()
    assert torch.equal(found[::2], expected[::2])


def test_the_option_draws_from_torchs_generator(x_MK: torch.Tensor, w_NK: torch.Tensor) -> None:
    def grads(seed: int) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(seed)
        y = ternary_product(x_MK, w_NK, None, int8_grad=True)
        return torch.autograd.grad(y.square().sum(), (x_MK, w_NK))

    x_grad, w_grad = grads(0)
    assert torch.equal(grads(0)[0], x_grad)
    other_x, other_w = grads(1)
    assert not torch.equal(other_x, x_grad)
    assert torch.equal(other_w, w_grad)
    y = ternary_product(x_MK, w_NK, None)
    (exact,) = torch.autograd.grad(y.square().sum(), x_MK)
    assert 0 < float((x_grad - exact).norm() / exact.norm()) < 0.05
