"""BitLinear against float64 formulas written out here, its gradients, compile and autocast."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from wrinklefree.models import BitLinear, quantized_once
from wrinklefree.models.blend import Blend


def make_layer(lam: float, *, bias: bool = True) -> BitLinear:
    return BitLinear(23, 7, bias, blend=Blend(lam))


def weight_formula(w: torch.Tensor) -> torch.Tensor:
    """Absmean ternary (arXiv 2402.17764, eq. 1-3) in float64."""
    w = w.detach().double()
    scale = w.abs().mean().clamp_min(1e-5)
    return scale * (w / scale).round().clamp(-1, 1)


def act_formula(x: torch.Tensor) -> torch.Tensor:
    """Absmax int8 per token in float64."""
    x = x.detach().double()
    absmax = x.abs().amax(-1, keepdim=True).clamp_min(1e-5)
    return absmax / 127 * (127 * x / absmax).round().clamp(-128, 127)


@pytest.mark.parametrize("lam", [0.25, 0.5, 1.0])
def test_forward_is_the_blended_formula(lam: float) -> None:
    layer, x = make_layer(lam), torch.randn(3, 5, 23)
    w, x64 = layer.weight.detach().double(), x.double()
    w_blend = (1 - lam) * w + lam * weight_formula(layer.weight)
    x_blend = (1 - lam) * x64 + lam * act_formula(x)
    expected = x_blend @ w_blend.T + layer.bias.detach().double()
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-6, rtol=1e-6)


def test_lambda_0_is_exactly_the_linear_layer() -> None:
    linear = nn.Linear(23, 7)
    layer, x = BitLinear.from_linear(linear, Blend(0.0)), torch.randn(4, 23)
    assert torch.equal(layer(x), linear(x))


def test_lambda_1_is_what_is_deployed() -> None:
    """Integer sums of codes, scaled once: the engine's formula."""
    layer, x = make_layer(1.0, bias=False), torch.randn(4, 23)
    absmax = x.abs().amax(-1, keepdim=True)
    q = (x * (127 / absmax)).round().clamp(-128, 127).long()
    sums = q @ layer.ternary().long().T
    expected = sums.double() * (absmax.double() / 127) * layer.scale
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-6, rtol=1e-6)


def test_codes_and_scale_are_the_deployed_weight() -> None:
    layer = make_layer(1.0)
    codes = layer.ternary()
    assert codes.dtype == torch.int8
    assert set(codes.unique().tolist()) == {-1, 0, 1}
    deployed = layer.scale * codes.double()
    torch.testing.assert_close(deployed, weight_formula(layer.weight), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_weights_quantized_once_give_the_same_bits_and_are_released(lam: float) -> None:
    layer, x = make_layer(lam), torch.randn(4, 23)
    expected = layer(x)
    with quantized_once(layer):
        assert torch.equal(layer(x), expected)
    with torch.no_grad():
        layer.weight.neg_()
    assert not torch.equal(layer(x), expected)


def test_all_zero_weights_have_the_floor_as_scale() -> None:
    layer = make_layer(1.0)
    nn.init.zeros_(layer.weight)
    assert layer.scale == pytest.approx(1e-5)
    assert not layer.ternary().any()


def test_zero_rows_give_the_bias_and_disturb_nothing() -> None:
    layer, x = make_layer(1.0), torch.randn(3, 23)
    x[1] = 0
    y = layer(x)
    assert torch.equal(y[1], layer.bias)
    torch.testing.assert_close(y[0], layer(x[:1])[0])
    assert y.isfinite().all()


def test_output_variance_is_that_of_a_linear_layer() -> None:
    """Popular re-implementations are off by a factor of 1000; rounding alone costs about half."""
    layer, x = BitLinear(512, 512, False, blend=Blend(1.0)), torch.randn(64, 512)
    nn.init.normal_(layer.weight, std=0.02)
    ratio = layer(x).var() / (x @ layer.weight.T).var()
    assert 0.3 < ratio < 1.5


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_gradients_pass_straight_through(lam: float) -> None:
    """Each operand's gradient uses the other, quantized operand; the quantizers are identities."""
    layer, x = make_layer(lam), torch.randn(4, 23, requires_grad=True)
    upstream = torch.randn(4, 7)
    layer(x).backward(upstream)
    w_blend = (1 - lam) * layer.weight.double() + lam * weight_formula(layer.weight)
    x_blend = (1 - lam) * x.double() + lam * act_formula(x)
    assert x.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(x.grad.double(), upstream.double() @ w_blend, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        layer.weight.grad.double(), upstream.double().T @ x_blend, atol=1e-6, rtol=1e-5
    )


def test_master_weights_change_every_step() -> None:
    layer, x = make_layer(1.0), torch.randn(16, 23)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
        assert (layer.weight != before).float().mean() > 0.9


def test_copies_have_a_lambda_of_their_own() -> None:
    layer = make_layer(1.0)
    twin = copy.deepcopy(layer)
    twin.blend.lam = 0.0
    assert layer.blend.lam == 1.0


def test_autocast_gives_bf16_close_to_float32() -> None:
    layer, x = make_layer(1.0), torch.randn(4, 23)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), atol=3e-2, rtol=3e-2)
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_compiles_into_one_graph(lam: float) -> None:
    layer, x = make_layer(lam), torch.randn(4, 23)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_exports_with_a_dynamic_batch(lam: float) -> None:
    layer = make_layer(lam)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (torch.randn(4, 23),), dynamic_shapes=({0: batch},))
    names = {str(node.target) for node in program.graph.nodes}
    ours = {
        0.0: set(),
        0.5: {"wrinklefree.fake_quant_act.default", "wrinklefree.fake_quant_ternary.default"},
        1.0: {"wrinklefree.ternary_pack.default", "wrinklefree.ternary_linear_codes.default"},
    }
    assert {name for name in names if name.startswith("wrinklefree.")} == ours[lam]
    for rows in (1, 9):
        x = torch.randn(rows, 23)
        torch.testing.assert_close(program.module()(x), layer(x), atol=1e-6, rtol=1e-6)
