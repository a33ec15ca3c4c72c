"""Artifact -> GGUF -> artifact, judged by the gguf package's own reader and dequantizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.convert.tiny_models import (
    ODD,
    UNEVEN,
    WIDE,
    edit_json,
    save_tiny_artifact,
)
from wrinklefree import _engine
from wrinklefree.convert.agreement import verify_logits
from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.hf_source import HfSource
from wrinklefree.convert.open_source import open_source
from wrinklefree.convert.plan import Plan, plan_gguf
from wrinklefree.convert.ternary_check import quantize_master
from wrinklefree.convert.to_gguf import write_gguf
from wrinklefree.convert.to_hf import Form, write_hf
from wrinklefree.convert.verify import verify_tensors
from wrinklefree.errors import FormatError, VerificationError
from wrinklefree.models import load_artifact


@pytest.fixture(scope="module")
def tokenizer(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf"


def convert(source: Path, target: Path, **options: str) -> Plan:
    plan = plan_gguf(source, **options)
    write_gguf(plan, target)
    return plan


def back(source: Path, target: Path) -> Path:
    target.mkdir()
    opened = open_source(source, may_be_float=True)
    write_hf(opened, target, Form.FLOAT if opened.is_float_model else Form.ARTIFACT)
    return target


CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("llama", "none", "tq2_0", WIDE),
    ("llama", "subln", "tq1_0", WIDE),
    ("llama", "subln", "i2_s", WIDE),
    ("llama", "none", "auto", ODD),
    ("llama", "subln", "auto", UNEVEN),
    ("llama", "subln", "auto", WIDE | {"hidden_act": "relu2"}),
    ("qwen2", "none", "tq2_0", WIDE),
    ("qwen3", "none", "tq1_0", WIDE),
    ("qwen3", "subln", "auto", WIDE),
    ("qwen2", "subln", "auto", WIDE),
    ("llama", "none", "tq2_0", WIDE | {"tied": False}),
    ("llama", "subln", "tq2_0", WIDE | {"tied": False, "hidden_act": "relu2"}),
    ("qwen3", "all", "tq2_0", WIDE),
    ("llama", "all", "auto", UNEVEN | {"attention_bias": True, "mlp_bias": True}),
]
IDS = [f"{family}-{subln}-{wanted}-{i}" for i, (family, subln, wanted, _) in enumerate(CASES)]


@pytest.mark.parametrize(("family", "subln", "wanted", "shape"), CASES, ids=IDS)
def test_codes_scales_and_floats_come_back(
    tokenizer: Path, tmp_path: Path, family: str, subln: str, wanted: str, shape: dict[str, Any]
) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, family, subln=subln, **shape)
    plan = convert(artifact, tmp_path / "a.gguf", wanted=wanted, embed="f32")
    assert verify_tensors(plan, tmp_path / "a.gguf") == len(plan.tensors)
    returned = back(tmp_path / "a.gguf", tmp_path / "b")

    before, after = HfSource(artifact), HfSource(returned)
    assert sorted(before.names) == sorted(after.names)
    for name in before.names:
        if not before.is_ternary(name):
            assert np.array_equal(before.read(name), after.read(name)), name
            continue
        old, new = before.ternary(name), after.ternary(name)
        assert np.array_equal(old.codes, new.codes), name
        is_f32 = wanted == "i2_s"
        assert new.scale == (old.scale if is_f32 else np.float32(np.float16(old.scale))), name
    loaded = load_artifact(returned)
    assert loaded.manifest.subln == subln
    assert loaded.model.config.hidden_act == before.config["hidden_act"]
    for key in ("tie_word_embeddings", "rms_norm_eps", "rope_parameters", "head_dim"):
        assert getattr(loaded.model.config, key) == before.config[key], key
    verify_logits(artifact, tmp_path / "a.gguf")
    verify_logits(tmp_path / "a.gguf", returned)
    # From here on nothing is rounded any more: the second file is the first.
    convert(returned, tmp_path / "b.gguf", wanted=wanted, embed="f32")
    verify_tensors(plan_gguf(returned, wanted=wanted, embed="f32"), tmp_path / "a.gguf")


@pytest.mark.parametrize("wanted", ["tq2_0", "tq1_0", "auto"])
@pytest.mark.parametrize("shape", [WIDE, ODD, UNEVEN], ids=["256", "576", "96x200"])
def test_the_gguf_package_reads_the_same_values(
    tokenizer: Path, tmp_path: Path, wanted: str, shape: dict[str, Any]
) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, subln="subln", **shape)
    plan = convert(artifact, tmp_path / "a.gguf", wanted=wanted)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert set(tensors) == {tensor.gguf_name for tensor in plan.tensors}
    source = HfSource(artifact)
    for planned in plan.tensors:
        found = tensors[planned.gguf_name]
        assert found.tensor_type.name == planned.type.name
        values = gguf.dequantize(found.data, found.tensor_type).reshape(planned.shape)
        if planned.is_ternary:
            ternary = source.ternary(planned.hf_name)
            expected = ternary.codes * np.float32(np.float16(ternary.scale))
        else:
            expected = source.read(planned.hf_name).astype(np.float16).astype(np.float32)
            if planned.type.name == "F32":
                expected = source.read(planned.hf_name)
        assert np.array_equal(values, expected), planned.gguf_name


def test_bytes_of_an_independent_converter(data_dir: Path, tmp_path: Path) -> None:
    """A plain directory of exactly ternary float16 weights gives the bytes of the fixture files."""
    source = data_dir / "ternary_gguf_fixture"
    for wanted in ("tq1_0", "tq2_0"):
        plan = convert(source / "hf", tmp_path / f"{wanted}.gguf", wanted=wanted)
        ours = {t.name: t for t in gguf.GGUFReader(tmp_path / f"{wanted}.gguf").tensors}
        theirs = gguf.GGUFReader(source / f"rand256-{wanted}.gguf").tensors
        assert len(theirs) == len(plan.tensors)
        for tensor in theirs:
            if tensor.tensor_type.name.startswith("TQ"):
                assert np.array_equal(ours[tensor.name].data, tensor.data), tensor.name


def test_i2_s_of_bitnet_cpp_becomes_an_artifact_and_the_same_bytes_again(
    data_dir: Path, tmp_path: Path
) -> None:
    file = data_dir / "i2s_fixture" / "bitnet-b158-i2_s.gguf"
    source = GgufSource(file)
    assert (source.architecture.name, source.subln) == ("bitnet-b1.58", "subln")
    exact = GgufSource(data_dir / "i2s_fixture" / "bitnet-b158-f16.gguf")
    for name in source.projections:
        ternary = source.ternary(name)
        assert np.array_equal(ternary.codes * ternary.scale, exact.read(name)), name
        assert quantize_master(source.masters(name)).scale == ternary.scale
    # A float file with sub-norms has BitLinear layers, as it has in the engine.
    assert exact.is_ternary_model
    assert all(exact.is_ternary(name) for name in exact.projections)


@pytest.mark.parametrize("embed", ["q4_0", "q6_k", "q8_0", "bf16"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_engine_runs_embeddings_of_every_type(
    tokenizer: Path, tmp_path: Path, embed: str, tied: bool
) -> None:
    """The same logits as the float model that the file turns back into."""
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, tied=tied)
    convert(artifact, tmp_path / "a.gguf", embed=embed)
    model = _engine.Model(str(tmp_path / "a.gguf"))
    assert not [note for note in model.info["notes"] if "run as float32" in note]
    verify_logits(tmp_path / "a.gguf", back(tmp_path / "a.gguf", tmp_path / "b"))


def test_embedding_is_q8_0_only_where_that_is_exact(tokenizer: Path, tmp_path: Path) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer)
    types = {tensor.gguf_name: tensor.type.name for tensor in plan_gguf(artifact).tensors}
    assert types["token_embd.weight"] == "F16"
    convert(artifact, tmp_path / "a.gguf", embed="q8_0")  # lossy, because asked for
    returned = back(tmp_path / "a.gguf", tmp_path / "b")
    types = {tensor.gguf_name: tensor.type.name for tensor in plan_gguf(returned).tensors}
    assert types["token_embd.weight"] == "Q8_0"


def test_tied_model_that_stores_its_head_again(tokenizer: Path, tmp_path: Path) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, tied=False)
    edit_json(artifact / "config.json", tie_word_embeddings=True)
    with pytest.raises(FormatError, match=r"lm_head\.weight differs"):
        plan_gguf(artifact)

    tensors = load_file(artifact / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, artifact / "model.safetensors", metadata={"format": "pt"})
    names = [tensor.gguf_name for tensor in plan_gguf(artifact).tensors]
    assert "token_embd.weight" in names
    assert "output.weight" not in names


def test_damaged_file_does_not_verify(tokenizer: Path, tmp_path: Path) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer)
    plan = convert(artifact, tmp_path / "a.gguf", wanted="tq2_0")
    name = "blk.1.ffn_down.weight"
    offset = next(
        t.data_offset for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors if t.name == name
    )
    content = bytearray((tmp_path / "a.gguf").read_bytes())
    content[offset] ^= 2
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(VerificationError, match=r"blk\.1\.ffn_down\.weight"):
        verify_tensors(plan, tmp_path / "a.gguf")


def test_float_gguf_becomes_the_dequantized_model(data_dir: Path, tmp_path: Path) -> None:
    returned = back(data_dir / "stories260k_hf" / "stories260K-f32.gguf", tmp_path / "teacher")
    ours = AutoModelForCausalLM.from_pretrained(returned).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(data_dir / "stories260k_hf").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert not (returned / "wrinklefree.json").exists()
