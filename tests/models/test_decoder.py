"""One block at a time, and the attention states: both must be those of the whole model."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from wrinklefree.errors import UsageError
from wrinklefree.models import capture_attention, decoder_layers, quantize_, run_layer

FAMILIES = ("llama", "qwen2", "qwen3")


@pytest.fixture
def padding(tokens):
    """[2, 11] attention mask whose second row starts with three padding tokens."""
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    return mask


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_run_layer_equals_the_whole_model(make_model, tokens, padding, family, padded):
    model = make_model(family)
    quantize_(model)
    mask = padding if padded else None
    hidden = model(tokens, attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(decoder_layers(model)) == 3
    for index in range(2):  # the last hidden state has the final norm applied
        output = run_layer(model, index, hidden[index], attention_mask=mask)
        torch.testing.assert_close(output, hidden[index + 1])


def test_run_layer_uses_positions_and_4d_masks(make_model):
    model, x = make_model(), torch.randn(1, 6, 32)
    blocks = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool().tril()[None, None]
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    packed = run_layer(model, 0, x, position_ids=positions, attention_mask=blocks)
    alone = [run_layer(model, 0, half) for half in x.split(3, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1))


def test_sliding_window_layers_keep_their_window(make_model, tokens):
    options = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    model = make_model("qwen3", **options)
    assert "sliding_attention" in model.config.layer_types
    hidden = model(tokens, output_hidden_states=True).hidden_states
    torch.testing.assert_close(run_layer(model, 1, hidden[1]), hidden[2])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_states_are_rotated_normed_and_unrepeated(make_model, tokens, family, implementation):
    model = make_model(family)
    model.set_attn_implementation(implementation)
    layer = decoder_layers(model)[1]
    attention = layer.self_attn
    with capture_attention(model, [1]) as states:
        hidden = model(tokens, output_hidden_states=True).hidden_states
    x = layer.input_layernorm(hidden[1])
    heads = (2, 11, -1, attention.head_dim)
    q, k, v = (attention.get_submodule(f"{n}_proj")(x).view(heads) for n in "qkv")
    if family == "qwen3":
        q, k = attention.q_norm(q), attention.k_norm(k)
    cos, sin = model.model.rotary_emb(x, torch.arange(11)[None])
    q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
    assert list(states) == [1]
    for captured, expected in zip(states[1], (q, k, v.transpose(1, 2)), strict=True):
        torch.testing.assert_close(captured, expected)
    assert states[1].k_BGLD.shape[1] == 2


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_capture_changes_nothing_and_cleans_up(make_model, tokens, padding, implementation):
    model = make_model()
    model.set_attn_implementation(implementation)
    expected = model(tokens, attention_mask=padding).logits
    with capture_attention(model, [0, -1]) as states:
        assert torch.equal(model(tokens, attention_mask=padding).logits, expected)
    assert sorted(states) == [0, 2]
    states.clear()
    model(tokens)
    assert states == {}
    assert model.config._attn_implementation == implementation


def test_states_carry_gradients(make_model, tokens):
    model = make_model()
    quantize_(model)
    with capture_attention(model, [0]) as states:
        model(tokens)
    states[0].k_BGLD.square().sum().backward()
    assert model.model.layers[0].self_attn.k_proj.weight.grad.any()


def test_teacher_and_student_are_captured_side_by_side(make_model, tokens):
    teacher, student = make_model("qwen3"), make_model("llama")
    with capture_attention(teacher, [2]) as wanted, capture_attention(student, [1]) as given:
        student(tokens)
        teacher(tokens)
    assert (list(wanted), list(given)) == ([2], [1])
    assert not torch.equal(wanted[2].q_BHLD, given[1].q_BHLD)


def test_missing_layer_is_named(make_model):
    with pytest.raises(UsageError, match="layer 3: the model has layers 0 to 2"):  # noqa: SIM117
        with capture_attention(make_model(), [3]):
            pass
