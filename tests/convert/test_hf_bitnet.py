"""BitNet checkpoints of transformers, read and written, judged by transformers' own layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights
from transformers.quantizers.quantizers_utils import should_convert_module

from tests.convert.tiny_models import (
    UNEVEN,
    WIDE,
    edit_json,
    save_tiny_artifact,
    save_tiny_directory,
    tiny_model,
)
from wrinklefree.convert.agreement import verify_logits
from wrinklefree.convert.hf_source import HfSource
from wrinklefree.convert.open_source import open_source
from wrinklefree.convert.plan import plan_gguf
from wrinklefree.convert.to_gguf import write_gguf
from wrinklefree.convert.to_hf import Form, write_hf
from wrinklefree.convert.verify import verify_directory
from wrinklefree.engine import LLM
from wrinklefree.errors import FormatError
from wrinklefree.models import load_artifact

PROMPT = [1, 403, 407, 261, 378, 299, 310, 427, 286, 333, 401, 317, 265, 388, 296, 352]
LINEAR_CLASSES = ("autobitlinear", "bitlinear")


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """transformers compiles its pack functions, which needs a C++ compiler and minutes."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def tokenizer(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf"


def write(source: Path, target: Path, form: Form) -> Path:
    target.mkdir()
    opened = open_source(source)
    write_hf(opened, target, form)
    verify_directory(opened, target, form)
    return target


@torch.inference_mode()
def logits(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found: torch.Tensor = model(torch.tensor([PROMPT])).logits[0]
    return found


def assert_close_logits(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Different float expressions may flip int8 codes: no equality, but the same distribution."""
    p, q = wanted.log_softmax(-1).double(), found.log_softmax(-1).double()
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 2e-3


def one_layer(directory: Path, linear_class: str, name: str) -> torch.Tensor:
    """The matrix that transformers' layer of this class applies, times 1: its result for the rows
    of an identity (each quantized exactly: absmax 1 is code 127)."""
    tensors = load_file(directory / "model.safetensors")
    packed, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
    out_features, in_features = 4 * packed.shape[0], packed.shape[1]
    if linear_class == "bitlinear":
        layer: torch.nn.Module = BitLinear(in_features, out_features, False, dtype=torch.float32)
        layer.weight = packed
    else:
        from transformers.integrations.bitnet import unpack_weights

        layer = AutoBitLinear(in_features, out_features, bias=False)
        layer.weight = torch.nn.Parameter(unpack_weights(packed, torch.float32))
    layer.weight_scale = scale
    with torch.inference_mode():
        return layer(torch.eye(in_features)).T


@pytest.mark.parametrize("linear_class", LINEAR_CLASSES)
def test_written_matrices_are_those_of_transformers_layers(
    tokenizer: Path, tmp_path: Path, linear_class: str
) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, subln="subln")
    packed = write(artifact, tmp_path / "packed", Form(linear_class))
    source, back = HfSource(artifact), HfSource(packed)
    for name in source.names:
        if source.is_ternary(name):
            matrix = one_layer(packed, linear_class, name.removesuffix(".weight"))
            wanted, read = source.ternary(name), back.ternary(name)
            np.testing.assert_allclose(matrix, wanted.codes * wanted.scale, rtol=1e-6)
            assert np.array_equal(read.codes, wanted.codes)
            assert read.scale == pytest.approx(wanted.scale, rel=1e-7)


@pytest.mark.parametrize("linear_class", LINEAR_CLASSES)
@pytest.mark.parametrize("stored", ["packed", "unpacked"])
def test_checkpoints_of_transformers_are_read(
    tokenizer: Path, tmp_path: Path, linear_class: str, stored: str
) -> None:
    """Weights packed by transformers, with both meanings of the scale; a loaded model of
    autobitlinear is saved with its codes as floats."""
    if (linear_class, stored) == ("bitlinear", "unpacked"):
        pytest.skip("bitlinear never unpacks")
    source = save_tiny_artifact(tmp_path / "a", tokenizer, subln="subln", hidden_act="relu2")
    masters = HfSource(source)
    directory = tmp_path / "bitnet"
    directory.mkdir()
    masters.write_tokenizer(directory)
    tensors = {}
    for name in masters.names:
        if not masters.is_ternary(name):
            tensors[name] = torch.from_numpy(masters.read(name))
            continue
        ternary = masters.ternary(name)
        codes = torch.from_numpy(ternary.codes.astype(np.float32))
        tensors[name] = pack_weights(codes.clone()) if stored == "packed" else codes
        scale = ternary.scale if linear_class == "autobitlinear" else 1 / ternary.scale
        tensors[name.replace(".weight", ".weight_scale")] = torch.tensor([scale])
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = BitNetConfig(**{k: v for k, v in masters.config.items() if k != "model_type"})
    config.save_pretrained(directory)
    edit_json(
        directory / "config.json",
        quantization_config={"quant_method": "bitnet", "linear_class": linear_class},
    )
    opened = HfSource(directory)
    assert (opened.subln, opened.config["model_type"]) == ("subln", "llama")
    for name in masters.names:
        if masters.is_ternary(name):
            assert np.array_equal(opened.ternary(name).codes, masters.ternary(name).codes)
            assert opened.ternary(name).scale == pytest.approx(masters.ternary(name).scale, 1e-7)
        else:
            assert np.array_equal(opened.read(name), masters.read(name))
    if stored == "packed":
        assert_close_logits(logits(directory), logits(source))
        verify_logits(directory, source)  # the engine reads it as it is
    artifact = write(directory, tmp_path / "artifact", Form.ARTIFACT)
    assert load_artifact(artifact).model.config.hidden_act == "relu2"
    verify_logits(source, artifact)


CLASSES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "subln", WIDE),
    ("llama", "subln", WIDE | {"hidden_act": "relu2", "tied": False, "attention_bias": True}),
    ("llama", "none", UNEVEN),
    ("qwen2", "none", WIDE),
    ("qwen3", "none", WIDE | {"attention_bias": True}),
    ("qwen3", "all", WIDE),
    ("llama", "all", WIDE | {"tied": False}),
]


@pytest.mark.parametrize("linear_class", LINEAR_CLASSES)
@pytest.mark.parametrize(
    ("family", "subln", "shape"),
    CLASSES,
    ids=[f"{family}-{subln}-{i}" for i, (family, subln, _) in enumerate(CLASSES)],
)
def test_transformers_and_the_engine_run_what_is_written(
    tokenizer: Path,
    tmp_path: Path,
    linear_class: str,
    family: str,
    subln: str,
    shape: dict[str, Any],
) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, family, subln=subln, **shape)
    packed = write(artifact, tmp_path / "packed", Form(linear_class))
    assert_close_logits(logits(packed), logits(artifact))
    verify_logits(artifact, packed)
    back = write(packed, tmp_path / "back", Form.ARTIFACT)
    assert load_artifact(back).manifest.subln == subln
    verify_logits(artifact, back)
    write_gguf(plan_gguf(packed), tmp_path / "a.gguf")
    verify_logits(packed, tmp_path / "a.gguf")


def online(path: Path, tokenizer: Path, **shape: Any) -> Path:
    """A bfloat16 master checkpoint as microsoft/bitnet-b1.58-2B-4T-bf16 is."""
    torch.manual_seed(3)
    config = BitNetConfig(
        **(WIDE | shape),
        vocab_size=512,
        num_hidden_layers=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    model = BitNetForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.7, 1.3)
    save_tiny_directory(path, tokenizer, model)
    edit_json(
        path / "config.json",
        quantization_config={
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "online",
        },
    )
    return path


def test_bf16_masters_become_an_artifact(tokenizer: Path, tmp_path: Path) -> None:
    source = online(tmp_path / "bf16", tokenizer)
    artifact = write(source, tmp_path / "artifact", Form.ARTIFACT)
    stored = load_file(source / "model.safetensors")
    written = load_file(artifact / "model.safetensors")
    assert all(torch.equal(written[name], stored[name].float()) for name in written)
    assert load_artifact(artifact).model.config.hidden_act == "relu2"
    assert_close_logits(logits(artifact), logits(source))
    verify_logits(source, artifact)


def test_only_what_the_class_can_hold_is_written(tokenizer: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        ("no sub-norms for qwen3", "qwen3", "subln", WIDE),
        ("no sub-norms for qwen2", "qwen2", "subln", WIDE),
        ("no biases in its MLP", "llama", "subln", WIDE | {"mlp_bias": True}),
        ("a multiple of 4", "llama", "none", UNEVEN | {"intermediate_size": 202}),
    ]
    for index, (reason, family, subln, shape) in enumerate(cases):
        artifact = save_tiny_artifact(
            tmp_path / str(index), tokenizer, family, subln=subln, **shape
        )
        target = tmp_path / f"{index}-packed"
        target.mkdir()
        with pytest.raises(FormatError, match=reason):
            write_hf(open_source(artifact), target, Form.AUTOBITLINEAR)
        assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"linear_class": "autobitlinea"}, "did you mean 'autobitlinear'"),
        ({"quantization_mode": "offlin"}, "did you mean 'offline'"),
        ({"modules_to_not_convert": []}, "ternary head is not supported"),
        ({"use_rms_norm": True}, "sub-norms and use_rms_norm together"),
    ],
)
def test_what_is_not_understood_is_refused(
    tokenizer: Path, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    source = online(tmp_path / "bf16", tokenizer)
    fields = json.loads((source / "config.json").read_text())["quantization_config"]
    edit_json(source / "config.json", quantization_config={**fields, **changes})
    with pytest.raises(FormatError, match=complaint):
        HfSource(source)


def test_defaults_that_differ_between_classes_are_never_guessed(
    tokenizer: Path, tmp_path: Path
) -> None:
    """A Llama without rope_theta turns with 10,000, a BitNet model with 500,000."""
    source = online(tmp_path / "bf16", tokenizer)
    edit_json(source / "config.json", rope_parameters=None, hidden_act=None)
    with pytest.raises(FormatError, match="lacks hidden_act, rope_theta, which are never guessed"):
        HfSource(source)
    edit_json(source / "config.json", hidden_act="relu2")
    with pytest.raises(Exception, match="'rope_theta' is missing"):
        LLM(source)


@pytest.mark.parametrize("value", [[0.0], [-1.0], [float("inf")], [1.0, 2.0]])
def test_a_scale_that_is_none_is_refused(
    tokenizer: Path, tmp_path: Path, value: list[float]
) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, subln="subln")
    packed = write(artifact, tmp_path / "packed", Form.BITLINEAR)
    tensors = load_file(packed / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name.replace(".weight", ".weight_scale")] = torch.tensor(value)
    save_file(tensors, packed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match="weight_scale"):
        HfSource(packed).ternary(name)
    with pytest.raises(Exception, match="weight_scale"):
        LLM(packed)


def test_a_packed_matrix_without_scale_or_with_a_fourth_code(
    tokenizer: Path, tmp_path: Path
) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, subln="subln")
    packed = write(artifact, tmp_path / "packed", Form.AUTOBITLINEAR)
    tensors = load_file(packed / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, 0] = 0xFF
    save_file(tensors, packed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match="is not packed ternary weights"):
        HfSource(packed).ternary(name)
    with pytest.raises(Exception, match="a code that no weight has"):
        LLM(packed)
    del tensors[name.replace(".weight", ".weight_scale")]
    save_file(tensors, packed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=f"1 packed matrices have no weight_scale: {name}"):
        HfSource(packed)
    with pytest.raises(Exception, match="has no weight_scale"):
        LLM(packed)


@pytest.mark.parametrize(
    "entry", ["mlp", "layers.0", "model.layers.0", "model.layers.1.mlp.", "v_proj", "proj", ""]
)
def test_which_projections_stay_float_is_decided_as_in_transformers(
    tokenizer: Path, tmp_path: Path, entry: str
) -> None:
    source = save_tiny_directory(tmp_path / "masters", tokenizer, tiny_model())
    quantization = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "modules_to_not_convert": ["lm_head", entry],
    }
    edit_json(source / "config.json", quantization_config=quantization)
    opened = HfSource(source)
    projections = {name for name in opened.names if "_proj." in name}
    wanted = {
        name
        for name in projections
        if should_convert_module(name.removesuffix(".weight"), ["lm_head", entry])
    }
    assert {name for name in projections if opened.is_ternary(name)} == wanted
    sizes = sum(int(np.prod(opened.shape(name))) for name in wanted)
    with LLM(source) as llm:
        assert llm.info["ternary_parameters"] == sizes
