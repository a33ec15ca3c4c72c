"""Models that are damaged, incomplete or of another kind: one typed line, never garbage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.gguf_edits import rewrite_gguf
from tests.engine.conftest import all_logits
from wrinklefree import LLM, _engine
from wrinklefree.errors import WrinklefreeError


def one_line(path: Path) -> str:
    """The error of loading `path`, through the public class."""
    with pytest.raises(WrinklefreeError) as error:
        LLM(path)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def directory(stories_dir: Path, tmp_path: Path) -> Path:
    """A copy of the stories260K directory that may be damaged."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(stories_dir / name, tmp_path / name)
    return tmp_path


def edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
QUANTIZED = {
    "quant_method": "wrinklefree",
    "scheme": "ternary",
    "subln": "none",
    "subln_eps": None,
    "lambda": 1.0,
    "modules_to_not_convert": ["lm_head"],
}
BITNET = {"quant_method": "bitnet", "linear_class": "autobitlinear"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"model_type": "bitnet", "num_key_value_heads": None}, "'num_key_value_heads' is missing"),
        ({"model_type": "bitnet", "tie_word_embeddings": None}, "'tie_word_embeddings' is missing"),
        ({"hidden_size": "64"}, "must be an integer"),
        ({"hidden_size": 0}, "hidden size is 0"),
        ({"hidden_size": 65}, "has the shape"),
        ({"num_hidden_layers": 513}, "number of layers is 513"),
        ({"num_hidden_layers": 6}, "tensors are missing: model.layers.5"),
        ({"num_hidden_layers": 4}, "does not use: model.layers.4"),
        ({"num_key_value_heads": 3}, "not a multiple of 3"),
        ({"num_key_value_heads": 16}, "number of key-value heads is 16"),
        ({"head_dim": 7}, "must be even"),
        ({"vocab_size": 1 << 40}, "vocabulary size"),
        ({"max_position_embeddings": 0}, "context length is 0"),
        ({"rms_norm_eps": 0}, "epsilon"),
        ({"rope_parameters": {"rope_theta": 0, "rope_type": "default"}}, "RoPE base"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic"}}, "'dynamic' is not supp"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}}, "original_max_position"),
        ({"rope_parameters": YARN | {"beta_fast": 0}}, "beta_fast"),
        ({"rope_parameters": YARN | {"attention_factor": -1}}, "amplitude"),
        ({"rope_parameters": YARN | {"rope_theta": 1}}, "other than 1"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
        ({"quantization_config": {"quant_method": "awq"}}, "'awq' is not supported"),
        ({"quantization_config": {**QUANTIZED, "lambda": 0.5}}, "lambda is 0.5"),
        ({"quantization_config": {**QUANTIZED, "subln": "some"}}, "'some' is not supported"),
        ({"quantization_config": {**QUANTIZED, "subln": "all"}}, "layers.0.mlp.down_proj.norm"),
        ({"quantization_config": {**QUANTIZED, "subln": "subln"}}, "attn_sub_norm"),
        ({"quantization_config": {**QUANTIZED, "scheme": "complex"}}, "scheme 'complex'"),
        ({"quantization_config": {**BITNET, "linear_class": "bit"}}, "linear_class 'bit'"),
        ({"quantization_config": {**BITNET, "quantization_mode": "on"}}, "mode 'on'"),
        ({"quantization_config": BITNET}, "has the shape"),
        ({"quantization_config": {**BITNET, "use_rms_norm": True}}, "down_proj.norm.weight"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_config_json(directory: Path, changes: dict[str, Any], problem: str) -> None:
    edit_json(directory / "config.json", changes)
    assert problem in one_line(directory)


def test_modules_that_are_not_converted_stay_float(directory: Path) -> None:
    def ternary(modules: list[str]) -> int:
        config = {**QUANTIZED, "modules_to_not_convert": modules}
        edit_json(directory / "config.json", {"quantization_config": config})
        count: int = _engine.Model(str(directory)).info["ternary_parameters"]
        return count

    everything = ternary(["lm_head"])
    down = 5 * 64 * 172
    assert everything == 5 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 172)
    assert ternary(["lm_head", "down_proj"]) == everything - down
    assert ternary(["mlp"]) == everything - 3 * down
    assert ternary(["layers.0"]) == everything // 5 * 4


def test_newer_manifest_names_what_it_needs(directory: Path) -> None:
    (directory / "wrinklefree.json").write_text('{"schema": 2}')
    assert "needs a version of wrinklefree that reads schema 2" in one_line(directory)


def test_an_unfinished_run_is_refused(directory: Path) -> None:
    (directory / "state").mkdir()
    _engine.Model(str(directory))  # without a manifest it is somebody else's directory
    (directory / "wrinklefree.json").write_text('{"schema": 1}')
    assert "unfinished training run" in one_line(directory)


def test_damaged_safetensors(directory: Path) -> None:
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        assert "model.safetensors" in one_line(directory)


def test_masters_that_are_not_finite_are_refused(directory: Path) -> None:
    from safetensors.numpy import load_file, save_file

    edit_json(directory / "config.json", {"quantization_config": QUANTIZED})
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][3, 5] = np.nan
    save_file(tensors, directory / "model.safetensors")
    assert "'model.layers.2.mlp.up_proj.weight' holds a NaN" in one_line(directory)


def test_a_head_stored_twice_must_be_the_embedding(directory: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, directory / "model.safetensors")
    assert _engine.Model(str(directory)).info["tied"]
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, directory / "model.safetensors")
    assert "lm_head.weight differs" in one_line(directory)


Rewrite = Callable[..., Path]


@pytest.fixture
def rewrite(stories_dir: Path, tmp_path: Path) -> Rewrite:
    """rewrite(keys={...}, tensors={...}) -> stories260K with changes; a None drops the entry."""
    source = stories_dir / "stories260K-f32.gguf"
    return partial(rewrite_gguf, source, tmp_path / "changed.gguf")


def test_the_rewritten_file_itself_is_the_model(rewrite: Rewrite, stories_dir: Path) -> None:
    ours = all_logits(_engine.Model(str(rewrite())), [1, 403, 407])
    np.testing.assert_array_equal(ours, all_logits(_engine.Model(str(stories_dir)), [1, 403, 407]))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"llama.block_count": 0}, "number of layers is 0"),
        ({"llama.block_count": 513}, "number of layers is 513"),
        ({"llama.block_count": 2**32 - 1}, "number of layers"),
        ({"llama.block_count": -1}, "number of layers is -1"),
        ({"llama.block_count": 5.0}, "must be an integer"),
        ({"llama.block_count": [5, 5]}, "is a list"),
        ({"llama.attention.head_count": 0}, "must be positive"),
        ({"llama.attention.head_count_kv": 3}, "not a multiple of 3"),
        ({"llama.attention.head_count_kv": 16}, "key-value heads is 16"),
        ({"llama.attention.key_length": 7, "llama.rope.dimension_count": 7}, "must be even"),
        ({"llama.attention.value_length": 16}, "different sizes"),
        ({"llama.rope.dimension_count": 4}, "rotary dimensions"),
        ({"llama.rope.freq_base": 0.0}, "RoPE base"),
        ({"llama.rope.freq_base": float("nan")}, "RoPE base"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope' is not supported"),
        ({"llama.rope.scaling.type": "yarn"}, "missing: llama.rope.scaling.factor"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "epsilon"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon"),
        ({"llama.context_length": 0}, "context length is 0"),
        ({"llama.context_length": 2**32 - 1}, "context length"),
        (
            {"llama.embedding_length": None, "llama.block_count": None},
            "embedding_length, llama.block",
        ),
        ({"wrinklefree.schema": 2}, "a version of wrinklefree that reads schema 2"),
        ({"wrinklefree.schema": "1"}, "'wrinklefree.schema' must be an integer"),
        ({"wrinklefree.modules_to_not_convert": "lm_head"}, "must be a list of strings"),
        ({"wrinklefree.subln_epsilon": 0.0}, "SubLN epsilon"),
        ({"tokenizer.ggml.eos_token_id": 512}, "eos_token_id is 512"),
        ({"tokenizer.ggml.scores": [0.0]}, "512 tokens and 1 values"),
        ({"tokenizer.ggml.tokens": [f"t{i}" for i in range(513)]}, "513 tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_gguf_metadata(rewrite: Rewrite, changes: dict[str, Any], problem: str) -> None:
    assert problem in one_line(rewrite(keys=changes))


def test_every_missing_tensor_is_listed(rewrite: Rewrite) -> None:
    text = one_line(rewrite(tensors={"blk.1.attn_q.weight": None, "output_norm.weight": None}))
    assert "model.layers.1.self_attn.q_proj.weight" in text
    assert "model.norm.weight" in text


def test_an_unknown_tensor_is_refused_by_name(rewrite: Rewrite) -> None:
    extra = np.zeros((2, 2), dtype=np.float32)
    assert "does not use: blk.0.router.weight" in one_line(
        rewrite(tensors={"blk.0.router.weight": extra})
    )


@pytest.mark.parametrize("name", ["LLAMA", "Llama"])
def test_architecture_names_ignore_case(rewrite: Rewrite, name: str) -> None:
    model = _engine.Model(str(rewrite(architecture=name, prefix=f"{name}.")))
    assert model.info["architecture"] == "llama"


OWN = {
    "wrinklefree.model_type": "llama",
    "wrinklefree.hidden_act": "silu",
    "wrinklefree.subln": "none",
}


def test_our_own_architecture_is_the_model_that_its_keys_say(rewrite: Rewrite) -> None:
    """Its rows are in Hugging Face's order: those of this file, for `llama`, are not."""
    ids = [1, 403, 407]
    own = _engine.Model(str(rewrite(architecture="wrinklefree", prefix="wrinklefree.", keys=OWN)))
    assert own.info["architecture"] == "wrinklefree"
    found = all_logits(own, ids)
    wanted = all_logits(_engine.Model(str(rewrite())), ids)
    assert np.array_equal(found[0], wanted[0])  # the first position is not rotated
    assert not np.allclose(found[2], wanted[2])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"wrinklefree.model_type": None}, "'wrinklefree.model_type' is missing"),
        ({"wrinklefree.model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"wrinklefree.model_type": "qwen3"}, "q_norm.weight"),
        ({"wrinklefree.hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"wrinklefree.subln": "some"}, "subln 'some' is not supported"),
        ({"wrinklefree.subln": "all"}, "layers.0.mlp.down_proj.norm.weight"),
        ({"wrinklefree.subln": "subln"}, "attn_sub_norm.weight"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_keys_of_our_own_architecture(
    rewrite: Rewrite, changes: dict[str, Any], problem: str
) -> None:
    path = rewrite(architecture="wrinklefree", prefix="wrinklefree.", keys={**OWN, **changes})
    assert problem in one_line(path)


@pytest.mark.parametrize("name", ["llama4", "x" * 1_000_000], ids=["llama4", "1MB"])
def test_unknown_architectures_list_the_known(rewrite: Rewrite, name: str) -> None:
    text = one_line(rewrite(architecture=name, prefix="other."))
    assert "is not supported (llama, qwen2, qwen3, bitnet, bitnet-b1.58, bitnet-25, " in text
    assert "wrinklefree are)" in text
    assert len(text) < 400


def test_truncated_file(stories_dir: Path, tmp_path: Path) -> None:
    whole = (stories_dir / "stories260K-f32.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (0, 4, 23, 1000, 14208, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "cut.gguf" in one_line(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_ternary_scales_must_be_finite(data_dir: Path, tmp_path: Path, value: float) -> None:
    source = data_dir / "ternary_gguf_fixture" / "rand256-tq2_0.gguf"
    tensor = next(t for t in _engine.GgufFile(str(source)).tensors if t.type == "TQ2_0")
    damaged = bytearray(source.read_bytes())
    scale_at = tensor.offset + 64
    damaged[scale_at : scale_at + 2] = np.float16(value).tobytes()
    path = tmp_path / "scale.gguf"
    path.write_bytes(damaged)
    assert "not finite" in one_line(path)


def test_ternary_blocks_with_scales_of_their_own_run_as_float(
    data_dir: Path, tmp_path: Path
) -> None:
    source = data_dir / "ternary_gguf_fixture" / "rand256-tq2_0.gguf"
    tensor = next(t for t in _engine.GgufFile(str(source)).tensors if t.type == "TQ2_0")
    changed = bytearray(source.read_bytes())
    scale_at = tensor.offset + 64
    changed[scale_at : scale_at + 2] = np.float16(0.25).tobytes()
    path = tmp_path / "scales.gguf"
    path.write_bytes(changed)
    before, after = _engine.Model(str(source)).info, _engine.Model(str(path)).info
    rows, columns = tensor.shape
    assert after["ternary_parameters"] == before["ternary_parameters"] - rows * columns
    assert after["notes"] == [
        "1 TQ2_0 tensors run as float32",
        "projections of this ternary model that are not ternary and run without int8 activations: "
        f"1 ({tensor.name})",
    ]


@pytest.mark.parametrize(
    ("value", "problem"), [(np.nan, "not finite"), (np.inf, "not finite"), (-1.0, "negative")]
)
def test_i2s_scale(data_dir: Path, tmp_path: Path, value: float, problem: str) -> None:
    source = data_dir / "i2s_fixture" / "bitnet-b158-i2_s.gguf"
    tensor = next(t for t in _engine.GgufFile(str(source)).tensors if t.type == "I2_S")
    damaged = bytearray(source.read_bytes())
    scale_at = tensor.offset + tensor.nbytes - 32
    damaged[scale_at : scale_at + 4] = np.float32(value).tobytes()
    path = tmp_path / "scale.gguf"
    path.write_bytes(damaged)
    with pytest.raises(_engine.FormatError, match=problem):
        _engine.Model(str(path))
