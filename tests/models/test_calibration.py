"""calibrate_subln_: its formulas, and that it helps on a real model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from wrinklefree.errors import UsageError
from wrinklefree.models import (
    QuantConfig,
    SubLN,
    calibrate_subln_,
    get_lambda,
    quantize_,
    set_lambda,
)
from wrinklefree.models.blend import Blend
from wrinklefree.models.calibration import CalibrationRows
from wrinklefree.models.surgery import bit_linears

METHODS = ("least_squares", "median_rms", "mean_rms", "unit")


def norm_inputs(model, tokens, norm):
    """What a norm gets as input [T, K], in float64."""
    inputs = []
    handle = norm.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    model(tokens)
    handle.remove()
    return inputs[0].detach().flatten(0, 1).double()


def gains(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if "sub_norm" in name}


def float_weights_normed(model):
    """Switch the quantizers off and the norms fully on."""
    set_lambda(model, 1.0)
    for linear in bit_linears(model):
        linear.blend = Blend(0.0)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("unit", lambda rms: 1.0),
        ("mean_rms", lambda rms: rms.mean().item()),
        ("median_rms", lambda rms: rms.sort().values[(len(rms) - 1) // 2].item()),
    ],
)
def test_scalar_methods_in_every_layer(make_model, tokens, method, expected):
    model = make_model()
    quantize_(model, QuantConfig(lam=0.0))
    calibrate_subln_(model, [tokens], method=method)
    for norm in (module for module in model.modules() if isinstance(module, SubLN)):
        rms = norm_inputs(model, tokens, norm).square().mean(-1).sqrt()
        torch.testing.assert_close(
            norm.weight.detach(), torch.full_like(norm.weight, expected(rms)), atol=0, rtol=1e-5
        )


def test_least_squares_formula_where_an_earlier_norm_is_active(make_model, tokens):
    """Layer 1's norm sees what the calibrated layer 0 gives and aims at the float input."""
    model = make_model()
    quantize_(model, QuantConfig(lam=0.0))
    norm = model.model.layers[1].self_attn.attn_sub_norm
    x = norm_inputs(model, tokens, norm)
    calibrate_subln_(model, [tokens])
    float_weights_normed(model)
    seen = norm_inputs(model, tokens, norm)
    assert (seen - x).abs().max() > 1e-4

    y = seen / (seen.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    rms = x.square().mean(-1).sqrt()
    median = rms.sort().values[(len(rms) - 1) // 2]
    expected = ((x * y).sum(0) + len(x) * median) / (y.square().sum(0) + len(x))
    torch.testing.assert_close(norm.weight.detach().double(), expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_batching_and_padding_change_nothing(make_model, tokens, method):
    model = make_model()
    quantize_(model)
    calibrate_subln_(model, [tokens], method=method)
    whole = gains(model)

    padding = torch.full((1, 5), 7)
    rows = [torch.cat([row[None], padding], dim=1) for row in tokens]
    mask = torch.arange(16)[None] < 11
    calibrate_subln_(model, [CalibrationRows(row, mask) for row in rows], method=method)
    for name, gain in gains(model).items():
        torch.testing.assert_close(gain, whole[name], atol=1e-6, rtol=1e-4)


def test_lambda_and_training_mode_are_as_before(make_model, tokens):
    model = make_model().train()
    quantize_(model, QuantConfig(lam=0.3))
    calibrate_subln_(model, [tokens])
    assert get_lambda(model) == 0.3
    assert model.training
    norms = [module for module in model.modules() if isinstance(module, SubLN)]
    set_lambda(model, 0.7)
    assert {norm.blend.lam for norm in norms} == {0.7}


def test_least_squares_beats_the_scalars_on_a_real_model(stories, data_dir):
    """KL to the teacher with float weights and lambda 1, on text not calibrated on."""
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "stories260k_hf")
    text = (data_dir / "tinystories_sample/tiny_stories.txt").read_text()[:12000]
    ids = torch.tensor(tokenizer(text)["input_ids"][: 10 * 256]).view(10, 256)
    calibration, held_out = ids[:6], ids[6:]
    teacher = stories(held_out).logits.detach().log_softmax(-1)
    quantize_(stories)
    float_weights_normed(stories)

    divergence = {}
    for method in METHODS:
        calibrate_subln_(stories, [calibration], method=method)
        student = stories(held_out).logits.detach().log_softmax(-1)
        kl = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="sum")
        divergence[method] = kl.item() / held_out.numel()
    assert divergence["least_squares"] < divergence["median_rms"] < divergence["unit"]


def test_norms_in_every_layer_are_calibrated_too(make_model, tokens):
    model = make_model()
    quantize_(model, QuantConfig(subln="all"))
    errors = calibrate_subln_(model, [tokens])
    assert len(errors) == 3 * 7
    assert max(errors.values()) < 0.2


def test_errors_are_reported_for_every_norm(make_model, tokens):
    model = make_model()
    quantize_(model)
    errors = calibrate_subln_(model, [tokens])
    assert list(errors) == [n for n, module in model.named_modules() if isinstance(module, SubLN)]
    assert all(0 <= error < 1 for error in errors.values())


def test_bad_calls_are_refused(make_model, tokens):
    model = make_model()
    with pytest.raises(UsageError, match="no SubLN"):
        calibrate_subln_(model, [tokens])
    quantize_(model)
    with pytest.raises(UsageError, match="did you mean 'median_rms'"):
        calibrate_subln_(model, [tokens], method="median_rm")
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    with pytest.raises(UsageError, match="at least one token"):
        calibrate_subln_(model, [CalibrationRows(tokens, nothing)])
