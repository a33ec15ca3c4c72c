"""quantize_ on the three families: exact names, exact lambda 0, one lambda, refusals."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from transformers import BitNetConfig, BitNetForCausalLM, GPT2Config, GPT2LMHeadModel

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models import (
    BitLinear,
    QuantConfig,
    decoder_layers,
    get_lambda,
    quant_config_of,
    quantize_,
    set_lambda,
)

FAMILIES = ("llama", "qwen2", "qwen3")
LAYER_LINEARS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("subln", ["subln", "all", "none"])
def test_names_are_the_float_names_plus_the_norms(make_model, family, subln):
    model = make_model(family)
    before = set(model.state_dict())
    quantize_(model, QuantConfig(subln=subln))
    sites = {
        "subln": ["self_attn.attn_sub_norm", "mlp.ffn_sub_norm"],
        "all": [f"{linear}.norm" for linear in LAYER_LINEARS],
        "none": [],
    }[subln]
    added = {f"model.layers.{i}.{site}.weight" for i in range(3) for site in sites}
    assert set(model.state_dict()) == before | added
    is_bit = [name for name, module in model.named_modules() if isinstance(module, BitLinear)]
    assert is_bit == [f"model.layers.{i}.{name}" for i in range(3) for name in LAYER_LINEARS]


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_sizes_follow_the_layer_they_feed(make_model, family):
    model = make_model(family)
    quantize_(model)
    layer = model.model.layers[0]
    o_proj_width = model.config.hidden_size if family == "qwen2" else 48
    if family == "qwen2":  # its heads may also have a width of their own
        o_proj_width = layer.self_attn.o_proj.in_features
    assert layer.self_attn.attn_sub_norm.weight.shape == (o_proj_width,)
    assert layer.mlp.ffn_sub_norm.weight.shape == (52,)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("subln", ["subln", "all", "none"])
def test_lambda_0_equals_the_teacher(make_model, tokens, family, subln):
    model = make_model(family)
    expected = model(tokens).logits
    quantize_(model, QuantConfig(subln=subln, lam=0.0))
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-5, rtol=0)


def test_lambda_0_equals_the_real_teacher_and_1_does_not(stories, tokens):
    expected = stories(tokens).logits
    quantize_(stories)
    assert get_lambda(stories) == 1.0
    assert (stories(tokens).logits - expected).abs().max() > 1.0
    set_lambda(stories, 0.0)
    torch.testing.assert_close(stories(tokens).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("subln", ["subln", "all"])
def test_norms_act_before_their_layer(make_model, tokens, subln):
    """Doubling a gain at lambda 1 doubles what o_proj sees, which its own quantizer keeps."""
    model = make_model()
    quantize_(model, QuantConfig(subln=subln))
    o_proj = model.model.layers[0].self_attn.o_proj
    outputs = []
    o_proj.register_forward_hook(lambda *call: outputs.append(call[2]))
    model(tokens)
    with torch.no_grad():
        o_proj.input_norm.weight.mul_(2)
    model(tokens)
    torch.testing.assert_close(outputs[1], 2 * outputs[0])


def test_parameters_are_taken_over_not_copied(make_model):
    model = make_model("qwen2")
    q_proj = model.model.layers[0].self_attn.q_proj
    quantize_(model)
    assert model.model.layers[0].self_attn.q_proj.weight is q_proj.weight
    assert model.model.layers[0].self_attn.q_proj.bias is q_proj.bias


def test_tied_head_stays_float_and_tied(make_model):
    model = make_model(tie_word_embeddings=True)
    quantize_(model)
    assert type(model.lm_head) is torch.nn.Linear
    assert model.lm_head.weight is model.model.embed_tokens.weight


def _round_trip(model: torch.nn.Module) -> torch.nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copied = torch.load(buffer, weights_only=False)
    assert isinstance(copied, torch.nn.Module)
    return copied


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _round_trip], ids=["deepcopy", "pickle"])
def test_copies_are_independent(make_model, tokens, duplicate):
    model = make_model()
    quantize_(model)
    expected = model(tokens).logits
    twin = duplicate(model)
    layer = twin.model.layers[1]
    assert layer.self_attn.o_proj.input_norm is layer.self_attn.attn_sub_norm
    set_lambda(twin, 0.5)
    with torch.no_grad():
        layer.mlp.ffn_sub_norm.weight.zero_()
    assert get_lambda(model) == 1.0
    assert quant_config_of(model).lam == 1.0
    assert torch.equal(model(tokens).logits, expected)
    assert not torch.equal(twin(tokens).logits, expected)


def test_moving_the_model_moves_the_norm_that_acts(make_model):
    model = make_model().to(torch.float64)
    quantize_(model)
    model.to(torch.float64)
    assert model.model.layers[0].self_attn.o_proj.input_norm.weight.dtype == torch.float64


def test_gains_and_masters_get_gradients(make_model, tokens):
    model = make_model()
    quantize_(model)
    model(tokens, labels=tokens).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_whole_block_compiles_into_one_graph(make_model):
    model = make_model()
    quantize_(model)
    mlp, x = decoder_layers(model)[0].mlp, torch.randn(2, 5, 32)
    compiled = torch.compile(mlp, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), mlp(x), atol=1e-6, rtol=1e-6)


def test_listed_modules_stay_float(make_model):
    model = make_model()
    skip = ("lm_head", "layers.1", "k_proj")
    quantize_(model, QuantConfig(subln="none", modules_to_not_convert=skip))
    layers = model.model.layers
    assert type(layers[0].self_attn.k_proj) is torch.nn.Linear
    assert type(layers[1].mlp.up_proj) is torch.nn.Linear
    assert isinstance(layers[2].mlp.up_proj, BitLinear)


def test_subln_eps_is_used_and_recorded(make_model):
    model = make_model()
    quantize_(model, QuantConfig(subln="all", subln_eps=1e-8))
    assert model.model.layers[0].mlp.up_proj.norm.eps == 1e-8
    assert quant_config_of(model).subln_eps == 1e-8


def test_unsupported_family_is_named_with_the_supported_ones():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16))
    with pytest.raises(UsageError, match="'gpt2' is not supported; supported: llama, qwen2, qwen3"):
        quantize_(model)


def test_bitnet_is_refused_with_advice():
    shape = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    with pytest.raises(UsageError, match=r"'bitnet'.*ternary already.*wf-convert"):
        quantize_(BitNetForCausalLM(BitNetConfig(**shape, **heads)))


def test_a_second_quantize_is_refused(make_model):
    model = make_model()
    quantize_(model)
    with pytest.raises(UsageError, match="already"):
        quantize_(model)


def test_lambda_of_a_float_model_is_refused(make_model):
    with pytest.raises(UsageError, match="quantize_ first"):
        get_lambda(make_model())


def test_misspelt_module_gets_a_suggestion_and_nothing_is_changed(make_model):
    model = make_model()
    with pytest.raises(UsageError, match="did you mean 'down_proj'"):
        quantize_(model, QuantConfig(modules_to_not_convert=("dwn_proj",)))
    assert not any(isinstance(module, BitLinear) for module in model.modules())


def test_float_o_proj_with_subln_is_refused(make_model):
    with pytest.raises(UsageError, match="o_proj"):
        quantize_(make_model(), QuantConfig(modules_to_not_convert=("lm_head", "o_proj")))


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan"), "1"])
def test_lambda_outside_0_to_1_is_refused(make_model, lam):
    model = make_model()
    quantize_(model)
    with pytest.raises(UsageError, match="lambda"):
        set_lambda(model, lam)
    assert get_lambda(model) == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subln": "sublnn"}, "did you mean 'subln'"),
        ({"scheme": "binary"}, "allowed: ternary"),
        ({"lam": 2.0}, "from 0 to 1"),
        ({"subln_eps": 0.0}, "positive"),
    ],
)
def test_bad_config_values_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        QuantConfig(**values)


def test_config_json_round_trip_and_typo():
    config = QuantConfig(subln="all", lam=0.25, subln_eps=1e-6)
    assert QuantConfig.from_json(config.to_json()) == config
    fields = config.to_json()
    fields["sublnn"] = fields.pop("subln")
    with pytest.raises(FormatError, match="'sublnn'; did you mean 'subln"):
        QuantConfig.from_json(fields)
