"""The artifact: exact round trips, strictness, atomic writes, transformers' own loader."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models import (
    BitLinear,
    Manifest,
    QuantConfig,
    artifact_hash,
    get_lambda,
    is_artifact,
    load_artifact,
    quant_config_of,
    quantize_,
    save_artifact,
    set_lambda,
)

GAIN = "model.layers.1.mlp.ffn_sub_norm.weight"


def train_gains_(model: torch.nn.Module) -> None:
    """Stand-in for training: no gain keeps its initial 1."""
    for name, parameter in model.named_parameters():
        if "sub_norm" in name or name.endswith("_proj.norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 2.0)


@pytest.fixture
def student(make_model):
    model = make_model("qwen3", tie_word_embeddings=True)
    quantize_(model)
    train_gains_(model)
    return model


@pytest.fixture
def artifact(student, tmp_path):
    """Directory of the saved student."""
    save_artifact(student, None, tmp_path / "s2", Manifest("stage2_pretrain"))
    return tmp_path / "s2"


def edit_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def edit_json(path, **changes):
    entries = json.loads(path.read_text())
    entries.update(changes)
    path.write_text(json.dumps({k: v for k, v in entries.items() if v is not ...}))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("subln", ["subln", "all", "none"])
def test_round_trip_is_exact(make_model, tokens, tmp_path, family, subln):
    model = make_model(family)
    quantize_(model, QuantConfig(subln=subln))
    train_gains_(model)
    set_lambda(model, 0.75)
    save_artifact(model, None, tmp_path / "a", Manifest("stage2_pretrain"))
    loaded = load_artifact(tmp_path / "a")
    assert torch.equal(loaded.model(tokens).logits, model(tokens).logits)
    assert (get_lambda(loaded.model), loaded.manifest.lam) == (0.75, 0.75)
    assert (quant_config_of(loaded.model).subln, loaded.manifest.subln) == (subln, subln)
    assert not loaded.model.training


def test_stage_2_gains_survive_into_stage_3(artifact, student, tokens, tmp_path):
    """The code published with arXiv 2510.13998 resets them to 1 here."""
    stage3 = load_artifact(artifact).model
    assert torch.equal(stage3.state_dict()[GAIN], student.state_dict()[GAIN])
    manifest = Manifest("stage3_distill", parent=artifact_hash(artifact))
    save_artifact(stage3, None, tmp_path / "s3", manifest)
    final = load_artifact(tmp_path / "s3")
    assert torch.equal(final.model.state_dict()[GAIN], student.state_dict()[GAIN])
    assert torch.equal(final.model(tokens).logits, student(tokens).logits)
    assert final.manifest.parent == artifact_hash(artifact)


def test_plain_transformers_loads_the_trained_module(artifact, student, tokens):
    model = AutoModelForCausalLM.from_pretrained(artifact)
    assert isinstance(model.model.layers[0].self_attn.q_proj, BitLinear)
    assert torch.equal(model(tokens).logits, student(tokens).logits)
    set_lambda(model, 0.5)
    assert quant_config_of(model).lam == 0.5


def test_save_pretrained_round_trip(artifact, student, tokens, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(artifact)
    set_lambda(model, 0.5)
    model.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert get_lambda(again) == 0.5
    assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_masters_stay_float32_whatever_is_asked(artifact):
    model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_real_model_with_tokenizer_and_generation_config(data_dir, stories, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "stories260k_hf")
    quantize_(stories)
    save_artifact(stories, tokenizer, tmp_path / "a", Manifest("stage1_subln"))
    assert (tmp_path / "a" / "generation_config.json").is_file()
    loaded = load_artifact(tmp_path / "a")
    text = "Once upon a time"
    assert loaded.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_float_model_is_saved_without_quantization(make_model, tokens, tmp_path):
    model = make_model()
    save_artifact(model, None, tmp_path / "sft", Manifest("sft"))
    assert "quantization_config" not in json.loads((tmp_path / "sft/config.json").read_text())
    loaded = load_artifact(tmp_path / "sft")
    assert torch.equal(loaded.model(tokens).logits, model(tokens).logits)


def test_stored_tensors_are_float32_and_tied_ones_stored_once(artifact):
    tensors = load_file(artifact / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert "lm_head.weight" not in tensors
    assert GAIN in tensors


@pytest.mark.parametrize("loader", [load_artifact, AutoModelForCausalLM.from_pretrained])
def test_every_wrong_tensor_is_listed_at_once(artifact, loader):
    def damage(tensors):
        del tensors[GAIN]
        del tensors["model.layers.0.self_attn.q_proj.weight"]
        tensors["model.layers.0.extra.weight"] = torch.zeros(2)
        tensors["model.norm.weight"] = torch.zeros(5)

    edit_tensors(artifact, damage)
    with pytest.raises(FormatError) as caught:
        loader(artifact)
    for text in (
        GAIN,
        "model.layers.0.self_attn.q_proj.weight",
        "unexpected: model.layers.0.extra.weight",
        "model.norm.weight is [5], expected [32]",
    ):
        assert text in str(caught.value)


def test_damaged_weights_are_one_error(artifact):
    path = artifact / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="not a valid safetensors file"):
        load_artifact(artifact)


def test_newer_schema_says_which_version_it_needs(artifact):
    edit_json(artifact / "wrinklefree.json", schema=7, novelty=1)
    with pytest.raises(FormatError, match="needs version 7"):
        load_artifact(artifact)


def test_every_wrong_manifest_entry_is_listed_at_once(artifact):
    edit_json(artifact / "wrinklefree.json", stage=3, parent=..., stge="x")
    with pytest.raises(FormatError) as caught:
        load_artifact(artifact)
    for text in ("'parent' is missing", "'stge' is unknown; did you mean 'stage'", "'stage' has"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda": 1.5}, "lambda"),
        ({"lambda": True}, "'lambda' has the wrong type"),
        ({"parent": "abc"}, "SHA-256"),
        ({"schema": 0}, "'schema' is 0"),
    ],
)
def test_invalid_manifest_values(artifact, change, message):
    edit_json(artifact / "wrinklefree.json", **change)
    with pytest.raises(FormatError, match=message):
        load_artifact(artifact)


def test_manifest_and_config_must_agree(artifact):
    edit_json(artifact / "wrinklefree.json", **{"lambda": 0.5})
    with pytest.raises(FormatError, match="lambda"):
        load_artifact(artifact)


def test_not_an_artifact(tmp_path):
    with pytest.raises(FormatError, match=r"no wrinklefree\.json"):
        load_artifact(tmp_path)
    with pytest.raises(UsageError, match="no such directory"):
        load_artifact(tmp_path / "nowhere")
    assert not is_artifact(tmp_path)


def test_saving_replaces_an_artifact_and_leaves_no_traces(artifact, student):
    with torch.no_grad():
        student.model.norm.weight.fill_(3.0)
    save_artifact(student, None, artifact, Manifest("stage2_pretrain"))
    assert load_artifact(artifact).model.model.norm.weight[0] == 3.0
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_saving_over_something_else_is_refused(student, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not an artifact"):
        save_artifact(student, None, tmp_path, Manifest("sft"))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_failed_save_keeps_the_old_artifact(artifact, student):
    before = artifact_hash(artifact)
    bad = Manifest("stage2_pretrain", metrics={"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_artifact(student, None, artifact, bad)
    assert artifact_hash(artifact) == before
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_float_checkpoint_is_not_loaded_as_ternary(make_model, tmp_path):
    from wrinklefree.models import WrinklefreeConfig

    make_model().save_pretrained(tmp_path)
    config = WrinklefreeConfig(**QuantConfig(subln_eps=1e-6).to_json())
    with pytest.raises(UsageError, match="quantize_"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
