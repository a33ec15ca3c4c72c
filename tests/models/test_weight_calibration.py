"""calibrate_weights_: what the codes keep of the float model, on random and on real weights."""

from __future__ import annotations

import copy

import pytest
import torch

from wrinklefree import reference
from wrinklefree.errors import UsageError
from wrinklefree.models import QuantConfig, quantize_, set_lambda
from wrinklefree.models.calibration import CalibrationRows
from wrinklefree.models.surgery import bit_linears
from wrinklefree.models.weight_calibration import _masters, _two_levels, calibrate_weights_


def all_of(tokens):
    """Rows without padding."""
    return CalibrationRows(tokens, torch.ones_like(tokens, dtype=torch.bool))


def hidden_distance(model, teacher, tokens):
    """Mean 1 - cos between the last hidden states."""
    with torch.no_grad():
        own, goal = (m.base_model(tokens).last_hidden_state for m in (model, teacher))
    return float((1 - torch.cosine_similarity(own, goal, dim=-1)).mean())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("subln", ["subln", "all", "none"])
def test_codes_come_nearer_to_the_teacher(make_model, family, subln):
    teacher = make_model(family)
    tokens = torch.randint(0, 97, (64, 16), generator=torch.Generator().manual_seed(1))
    rounded = copy.deepcopy(teacher)
    quantize_(rounded, QuantConfig(subln=subln))
    solved = copy.deepcopy(rounded)
    done = []
    errors = calibrate_weights_(solved, teacher, all_of(tokens), progress=done.append)
    assert done == [1, 2, 3]
    assert len(errors) == 3 * 7
    assert all(0 <= error < 1 for error in errors.values())
    unseen = torch.randint(0, 97, (16, 16), generator=torch.Generator().manual_seed(2))
    assert hidden_distance(solved, teacher, unseen) < 0.9 * hidden_distance(
        rounded, teacher, unseen
    )


def test_padding_does_not_count(make_model):
    teacher = make_model()
    tokens = torch.randint(0, 97, (8, 16), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([tokens, torch.full((8, 5), 3)], dim=1)
    is_token = (torch.arange(21) < 16).expand(8, 21)
    models = [copy.deepcopy(teacher) for _ in range(2)]
    for model in models:
        quantize_(model)
    plain = calibrate_weights_(models[0], teacher, all_of(tokens))
    masked = calibrate_weights_(models[1], teacher, CalibrationRows(padded, is_token))
    assert masked == pytest.approx(plain, rel=1e-3)


def test_it_helps_a_real_model(stories):
    teacher = stories
    rounded = copy.deepcopy(teacher)
    quantize_(rounded)
    solved = copy.deepcopy(rounded)
    start = torch.ones(32, 1, dtype=torch.long)  # begin of text
    tokens = teacher.generate(start, max_new_tokens=31, do_sample=True)
    calibrate_weights_(solved, teacher, all_of(tokens))
    before, after = (hidden_distance(m, teacher, tokens) for m in (rounded, solved))
    assert after < 0.6 * before


@pytest.mark.parametrize("scale", [1e-4, 0.3, 20.0])
def test_masters_are_rounded_to_their_codes(scale):
    w = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    threshold, _ = _two_levels(w)
    codes = (w.abs() > threshold) * w.sign()
    masters = _masters(w, codes, threshold, scale)
    deployed, deployed_scale = reference.ternary_quantize(masters)
    assert torch.equal(deployed.float(), codes)
    assert float(deployed_scale) == pytest.approx(scale, rel=1e-5)


def test_two_levels_are_the_best_for_a_normal_distribution():
    w = torch.randn(400, 500, generator=torch.Generator().manual_seed(0))
    threshold, level = _two_levels(w)
    assert threshold == pytest.approx(0.612, abs=0.005)  # Max (1960), three levels
    assert level == pytest.approx(1.224, abs=0.01)


def test_a_layer_without_signal_stays_finite(make_model):
    teacher = make_model()
    with torch.no_grad():
        teacher.model.layers[1].self_attn.v_proj.weight.zero_()
        teacher.model.layers[2].mlp.up_proj.weight[3:].zero_()
    model = copy.deepcopy(teacher)
    quantize_(model)
    tokens = torch.randint(0, 97, (8, 16))
    calibrate_weights_(model, teacher, all_of(tokens))
    assert all(linear.weight.isfinite().all() for linear in bit_linears(model))
    assert model(tokens).logits.isfinite().all()


def test_wrong_use_is_refused(make_model):
    teacher = make_model()
    model = copy.deepcopy(teacher)
    quantize_(model)
    tokens = torch.ones(1, 4, dtype=torch.long)
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    with pytest.raises(UsageError, match="token"):
        calibrate_weights_(model, teacher, CalibrationRows(tokens, nothing))
    other = make_model(num_hidden_layers=2)
    with pytest.raises(UsageError, match="layers"):
        calibrate_weights_(model, other, all_of(tokens))
    set_lambda(model, 0.5)
    with pytest.raises(UsageError, match="lambda 1"):
        calibrate_weights_(model, teacher, all_of(tokens))
