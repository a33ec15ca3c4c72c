"""Directions of wf-convert beside artifact to GGUF and back, as a user asks for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from tests.convert.tiny_models import (
    WIDE,
    save_tiny_artifact,
    save_tiny_directory,
    tiny_model,
)
from wrinklefree import _engine
from wrinklefree.cli.convert import main
from wrinklefree.convert.codec import decode
from wrinklefree.convert.gguf_names import to_hf_name
from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.hf_source import HfSource
from wrinklefree.convert.types import IQ2_BN
from wrinklefree.errors import FormatError


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def tokenizer(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf"


@pytest.fixture(scope="module")
def artifact(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("directions") / "a"
    return save_tiny_artifact(path, tokenizer, subln="subln", num_hidden_layers=1)


def assert_same_codes(found: GgufSource | HfSource, wanted: GgufSource | HfSource) -> None:
    for name in filter(wanted.is_ternary, wanted.names):
        assert np.array_equal(found.ternary(name).codes, wanted.ternary(name).codes), name
        scale = wanted.ternary(name).scale
        assert found.ternary(name).scale == pytest.approx(scale, rel=2**-11)


def test_packed_and_back_by_the_command(artifact: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    code, out, err = run(artifact, packed, "--to", "bitnet", "--linear-class", "bitlinear")
    assert code == 0, err
    assert "results are divided by weight_scale" in out
    assert "logits within a mean KL" in out
    config = json.loads((packed / "config.json").read_text())
    assert config["model_type"] == "bitnet"
    assert config["quantization_config"]["linear_class"] == "bitlinear"

    code, out, err = run(packed, tmp_path / "back", "--json")
    assert code == 0, err
    assert json.loads(out)["form"] == "artifact"
    assert_same_codes(HfSource(tmp_path / "back"), HfSource(artifact))


def test_i2_s_becomes_tq2_0_without_a_directory_between(artifact: Path, tmp_path: Path) -> None:
    assert run(artifact, tmp_path / "a.gguf", "--type", "I2S", "--verify", "none")[0] == 0
    code, out, err = run(tmp_path / "a.gguf", tmp_path / "b.gguf", "--type", "tq2_0", "--json")
    assert code == 0, err
    assert json.loads(out)["verified"]["logits"]["mean_kl"] < 1e-4
    before, after = GgufSource(tmp_path / "a.gguf"), GgufSource(tmp_path / "b.gguf")
    assert {after.type_name(name) for name in after.projections} == {"TQ2_0"}
    assert_same_codes(after, before)
    assert after.tokenizer_keys() == before.tokenizer_keys()


def test_dequantized_floats(artifact: Path, tmp_path: Path) -> None:
    code, out, err = run(artifact, tmp_path / "float", "--to", "float")
    assert code == 0, err
    assert "activations are no longer quantized" in out
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "float").state_dict()
    source = HfSource(artifact)
    for name in filter(source.is_ternary, source.names):
        ternary = source.ternary(name)
        assert np.array_equal(state[name].numpy(), ternary.codes * ternary.scale), name
    assert run(artifact, tmp_path / "x", "--to", "float", "--type", "tq2_0")[0] == 2


def test_ternarizing_is_a_wish_with_a_price(tokenizer: Path, tmp_path: Path) -> None:
    source = save_tiny_directory(tmp_path / "float", tokenizer, tiny_model(num_hidden_layers=1))
    assert run(source, tmp_path / "x.gguf")[0] == 1
    code, out, err = run(source, tmp_path / "x.gguf", "--ternarize", "absmean")
    assert code == 0, err
    assert "0.51" in out.split("model.layers.0.mlp.down_proj.weight")[0].splitlines()[-1]
    assert "logits not compared: the source is a float model" in out
    code, out, _ = run(source, tmp_path / "art", "--ternarize", "absmean", "--json")
    errors = json.loads(out)["ternarized"]
    assert len(errors) == 7
    # A Gaussian loses .2634 of its square.
    assert all(error["relative"] == pytest.approx(0.513, abs=0.02) for error in errors)
    assert HfSource(tmp_path / "art").manifest is not None
    assert run(tmp_path / "art", tmp_path / "y.gguf", "--ternarize", "absmean")[0] == 2


def arm_bytes(codes: np.ndarray, scale: np.float32) -> bytes:
    """I2_S as an ARM build of bitnet.cpp writes it, weight by weight."""
    flat = (codes.reshape(-1) + 1).tolist()
    packed = bytearray(len(flat) // 4)
    for index, code in enumerate(flat):
        group, within = divmod(index, 64)
        packed[16 * group + within % 16] |= code << (6 - 2 * (within // 16))
    return bytes(packed) + np.float32(scale).tobytes() + bytes(28)


def test_i2_s_of_an_arm_build_by_flag(artifact: Path, tmp_path: Path) -> None:
    x86, arm = tmp_path / "x86.gguf", tmp_path / "arm.gguf"
    assert run(artifact, x86, "--type", "i2_s", "--verify", "none")[0] == 0
    source = GgufSource(x86)
    content = bytearray(x86.read_bytes())
    for tensor in _engine.GgufFile(str(x86)).tensors:
        if tensor.type == "I2_S":
            ternary = source.ternary(str(to_hf_name(tensor.name)))
            content[tensor.offset : tensor.offset + tensor.nbytes] = arm_bytes(
                ternary.codes, ternary.scale
            )
    arm.write_bytes(content)
    with pytest.raises(AssertionError):
        assert_same_codes(GgufSource(arm), source)
    assert_same_codes(GgufSource(arm, i2s_group=64), source)
    code, out, err = run(arm, tmp_path / "b.gguf", "--type", "tq2_0", "--i2s-group", "64")
    assert code == 0, err
    assert "logits not compared: the engine reads I2_S in groups of 128 only" in out
    assert_same_codes(GgufSource(tmp_path / "b.gguf"), source)


def iq2_bn_bytes(codes: np.ndarray, scale: np.float32) -> bytes:
    """Rows of IQ2_BN of ik_llama.cpp, weight by weight."""
    rows = []
    for row in codes:
        packed = bytearray(len(row) // 4)
        for index, code in enumerate((row + 1).tolist()):
            group, within = divmod(index, 64)
            packed[16 * group + within % 16] |= code << (2 * (within // 16))
        rows.append(np.float32(scale if row.any() else 0).tobytes() + bytes(packed))
    return b"".join(rows)


@pytest.mark.parametrize("damage", [None, "code", "scale"])
def test_iq2_bn_of_ik_llama_cpp(artifact: Path, tmp_path: Path, damage: str | None) -> None:
    source = HfSource(artifact)
    name = "model.layers.0.mlp.up_proj.weight"
    ternary = source.ternary(name)
    ternary.codes[3] = 0  # a row of zeros has no scale
    raw = np.frombuffer(iq2_bn_bytes(ternary.codes, ternary.scale), np.uint8).copy()
    if damage == "code":
        raw[4] = 0xFF
    if damage == "scale":
        raw[:4] = np.float32([1.5]).view(np.uint8)
    if damage is not None:
        with pytest.raises(FormatError, match=r"no weight has|one positive scale"):
            decode(raw, IQ2_BN, ternary.codes.shape, name)
        return
    found = decode(raw, IQ2_BN, ternary.codes.shape, name)
    assert np.array_equal(found.codes, ternary.codes)
    assert found.scale == ternary.scale


@pytest.mark.parametrize(
    ("subln", "family"), [("all", "llama"), ("subln", "qwen3")], ids=["all", "qwen3"]
)
def test_what_no_peer_has_says_so(tokenizer: Path, tmp_path: Path, subln: str, family: str) -> None:
    source = save_tiny_artifact(
        tmp_path / "a", tokenizer, family, subln=subln, **WIDE, num_hidden_layers=1
    )
    code, out, err = run(source, tmp_path / "a.gguf")
    assert code == 0, err
    assert "(architecture wrinklefree)" in out
    assert "only wrinklefree runs this file: no architecture of llama.cpp has" in out
    metadata = GgufSource(tmp_path / "a.gguf").metadata
    assert metadata["wrinklefree.subln"] == subln
    assert metadata["wrinklefree.model_type"] == family
    assert metadata["wrinklefree.hidden_act"] == "silu"
    assert metadata["wrinklefree.embedding_length"] == 256


def test_the_sampling_of_the_model_goes_along(artifact: Path, tmp_path: Path) -> None:
    source = shutil.copytree(artifact, tmp_path / "a")
    wishes = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
    (source / "generation_config.json").write_text(json.dumps({"do_sample": True, **wishes}))
    file = tmp_path / "a.gguf"
    code, _, err = run(source, file, "--verify", "tensors")
    assert code == 0, err
    fields = gguf.GGUFReader(file).fields
    keys = gguf.Keys.General
    assert fields[keys.SAMPLING_TEMP].contents() == pytest.approx(0.6)
    assert fields[keys.SAMPLING_TOP_K].contents() == 20
    assert fields[keys.SAMPLING_TOP_P].contents() == pytest.approx(0.95)
    assert fields[keys.SAMPLING_PENALTY_REPEAT].contents() == pytest.approx(1.05)
    assert keys.SAMPLING_MIN_P not in fields
    again = tmp_path / "again.gguf"
    assert run(file, again, "--verify", "tensors")[0] == 0
    assert GgufSource(again).default_sampling == wishes
    assert run(again, tmp_path / "b", "--verify", "tensors")[0] == 0
    generation = json.loads((tmp_path / "b/generation_config.json").read_text())
    assert {name: generation[name] for name in wishes} == wishes
    assert generation["do_sample"] is True
