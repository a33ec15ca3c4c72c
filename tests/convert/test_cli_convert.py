"""wf-convert as a user runs it: results, summaries, exit codes, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer as HfTokenizer

from tests.convert.tiny_models import (
    ODD,
    UNEVEN,
    WIDE,
    edit_json,
    save_tiny_artifact,
    save_tiny_directory,
    tiny_model,
)
from wrinklefree.cli.convert import main
from wrinklefree.convert import to_gguf
from wrinklefree.convert.agreement import verify_perplexity
from wrinklefree.convert.corpus import PROSE
from wrinklefree.convert.verify import verify_tokens
from wrinklefree.errors import VerificationError
from wrinklefree.models import Manifest, QuantConfig, load_teacher, quantize_, save_artifact


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def assert_fails(code: int, complaint: str, *arguments: object) -> None:
    found, _, err = run(*arguments)
    assert found == code, err
    lines = [line for line in err.splitlines() if not line.startswith(("writing", "verifying"))]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert complaint in lines[0]


@pytest.fixture(scope="module")
def tokenizer(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf"


@pytest.fixture(scope="module")
def wide(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_artifact(tmp_path_factory.mktemp("wide") / "a", tokenizer, subln="subln")


def copy(artifact: Path, target: Path) -> Path:
    shutil.copytree(artifact, target)
    return target


def test_there_and_back_with_full_verification(wide: Path, tmp_path: Path) -> None:
    file = tmp_path / "student.gguf"
    code, out, err = run(wide, file, "--type", "tq2_0", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["architecture"] == "bitnet"
    assert report["ternary_bits_per_weight"] == pytest.approx(2.0625)
    assert report["bytes"] == file.stat().st_size < report["source_bytes"] / 3
    assert report["fallbacks"] == []
    assert report["verified"]["logits"]["mean_kl"] < 1e-4
    assert report["verified"]["token_strings"] >= 1000
    assert sum(share["share"] for share in report["types"]) == pytest.approx(1.0)
    sizes = sum(share["num_bytes"] for share in report["types"])
    assert report["tensor_bytes"] == sizes < report["bytes"]
    assert report["bits_per_weight"] == pytest.approx(8 * sizes / 1_313_536)
    reasons = {part["reason"]: part["parameters"] for part in report["not_ternary"]}
    assert reasons == {"embedding": 512 * 256, "norm": 2 * (3 * 256 + 512) + 256}

    code, out, err = run(file, tmp_path / "back", "--to", "hf", "--json")
    assert code == 0, err
    assert json.loads(out)["ternary"] is True
    assert json.loads(out)["verified"]["tensors"] == 24
    assert (tmp_path / "back" / "wrinklefree.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "student.gguf"]


@pytest.mark.parametrize(
    ("wanted", "bits"), [("tq2_0", 2.0625), ("tq1_0", 1.6875), ("i2_s", 2.0625), ("auto", 2.0625)]
)
def test_bits_per_weight_are_printed(wide: Path, tmp_path: Path, wanted: str, bits: float) -> None:
    code, out, _ = run(wide, tmp_path / "a.gguf", "--type", wanted, "--dry-run")
    assert code == 0
    taken = float(out.split(" per ternary weight")[0].split()[-1])
    assert taken == pytest.approx(bits, abs=0.06)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_fit_no_block_are_listed_and_strict_refuses(
    tokenizer: Path, tmp_path: Path
) -> None:
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, **UNEVEN)
    code, out, _ = run(artifact, tmp_path / "x.gguf", "--type", "tq1_0", "--dry-run")
    assert code == 0
    assert "12 tensors: rows of 96 are not a multiple of TQ1_0's block of 256" in out
    assert "stored exactly as Q4_0" in out
    assert "2 tensors: rows of 200" in out
    assert "stored exactly as F16" in out
    arguments = (artifact, tmp_path / "x.gguf", "--type", "tq1_0", "--strict")
    assert_fails(1, "14 of 20 tensors", *arguments)
    assert_fails(1, "blk.1.ffn_down.weight (rows of 200", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_smollm2_shapes(tokenizer: Path, tmp_path: Path) -> None:
    """576 wide: only down_proj (1536) fits a TQ block; everything else is exact in Q4_0."""
    shape = ODD | {"intermediate_size": 1536, "num_hidden_layers": 1}
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, **shape)
    code, out, _ = run(artifact, tmp_path / "x.gguf", "--json", "--dry-run")
    assert code == 0
    report = json.loads(out)
    kinds = {share["type"]: share for share in report["types"]}
    assert kinds["TQ2_0"]["tensors"] == 1
    assert kinds["Q4_0"]["tensors"] == 6
    assert report["ternary_bits_per_weight"] == pytest.approx(3.89, abs=0.01)


def test_gaussian_weights_are_refused_with_their_error(tokenizer: Path, tmp_path: Path) -> None:
    source = save_tiny_directory(tmp_path / "float", tokenizer, tiny_model())
    assert_fails(1, "14 matrices are not ternary", source, tmp_path / "x.gguf")
    assert_fails(1, "(relative error 0.5", source, tmp_path / "x.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["float"]


def test_unfinished_and_unknown_artifacts_are_refused_by_name(
    wide: Path, tokenizer: Path, tmp_path: Path
) -> None:
    blended = save_tiny_artifact(tmp_path / "blended", tokenizer, lam=0.5)
    assert_fails(1, "lambda = 0.5", blended, tmp_path / "x.gguf")
    newer = copy(wide, tmp_path / "newer")
    edit_json(newer / "wrinklefree.json", schema=2)
    assert_fails(1, "needs version 2", newer, tmp_path / "x.gguf")
    foreign = copy(wide, tmp_path / "foreign")
    edit_json(foreign / "config.json", quantization_config={"quant_method": "gptq"})
    assert_fails(1, "'gptq'", foreign, tmp_path / "x.gguf")
    silent = copy(wide, tmp_path / "silent")
    edit_json(silent / "config.json", hidden_act=None)
    assert_fails(1, "hidden_act", silent, tmp_path / "x.gguf")


def test_every_unmapped_and_missing_tensor_is_listed(wide: Path, tmp_path: Path) -> None:
    extra = copy(wide, tmp_path / "extra")
    tensors = load_file(extra / "model.safetensors")
    tensors["model.layers.0.mlp.gate_proj.weight_scale"] = np.ones(1, np.float32)
    tensors["visual.weight"] = np.ones(1, np.float32)
    save_file(tensors, extra / "model.safetensors", metadata={"format": "pt"})
    assert_fails(1, "2 tensor(s) have no GGUF name: model.layers.0.mlp", extra, tmp_path / "x.gguf")
    assert_fails(1, "visual.weight", extra, tmp_path / "x.gguf")

    short = copy(wide, tmp_path / "short")
    tensors = load_file(short / "model.safetensors")
    del tensors["model.layers.1.self_attn.attn_sub_norm.weight"], tensors["model.norm.weight"]
    save_file(tensors, short / "model.safetensors", metadata={"format": "pt"})
    assert_fails(1, "lacks 2 tensor(s)", short, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{missing}", "x.gguf"], "does not exist"),
        (["{model}", "x.gguf", "--type", "tq3_0"], "did you mean 'tq2_0'"),
        (["{model}", "x.gguf", "--embed-type", "q8"], "did you mean 'q8_0'"),
        (["{model}", "nowhere/x.gguf", "--verify", "none"], "create it first"),
        (["{model}", "out", "--to", "hf", "--linear-class", "bitlinear"], "--to bitnet"),
        (["{model}", "x.gguf", "--ternarize", "absmean"], "is ternary already"),
        (["{model}", "x.gguf", "--i2s-group", "64"], "--i2s-group belongs to GGUF files"),
        (["{file}", "out", "--to", "hf", "--strict"], "--to gguf"),
        (["{empty}", "x.gguf"], "config.json is missing"),
        (["{model}", "x.gguf", "--verfy", "none"], "--verify"),
    ],
)
def test_bad_usage(
    wide: Path, tmp_path: Path, data_dir: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {
        "model": wide,
        "file": data_dir / "stories260k_hf" / "stories260K-f32.gguf",
        "missing": tmp_path / "missing",
        "empty": tmp_path / "empty",
    }
    source, destination, *options = (argument.format(**names) for argument in arguments)
    assert_fails(2, complaint, source, tmp_path / destination, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("length", [0, 4, 100, 20_000])
def test_truncated_gguf(data_dir: Path, tmp_path: Path, length: int) -> None:
    content = (data_dir / "stories260k_hf" / "stories260K-f32.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:length])
    assert_fails(1, "cut.gguf", tmp_path / "cut.gguf", tmp_path / "out", "--to", "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_damaged_safetensors(wide: Path, tmp_path: Path) -> None:
    broken = copy(wide, tmp_path / "broken")
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert_fails(1, "not a readable safetensors file", broken, tmp_path / "x.gguf")
    tensors = load_file(wide / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert_fails(1, "NaN", broken, tmp_path / "x.gguf", "--verify", "none")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_interrupt_while_writing_leaves_the_old_file(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    target.write_text("old")
    encode = to_gguf.tensor_bytes
    written = []

    def interrupted(*arguments: Any) -> np.ndarray:
        written.append(arguments)
        if len(written) == 5:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(to_gguf, "tensor_bytes", interrupted)
    code, _, err = run(wide, target, "--verify", "none")
    assert (code, err.splitlines()[-1]) == (130, "interrupted")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_does_not_verify_never_appears(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = to_gguf.encode

    def wrong(*arguments: Any) -> np.ndarray:
        damaged = encode(*arguments)
        damaged[0] ^= 2
        return damaged

    monkeypatch.setattr(to_gguf, "encode", wrong)
    assert_fails(3, "14 tensor(s)", wide, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_wrong_wiring_shows_in_the_logits(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose q and k rows are in the wrong order passes the tensor check made from the same
    order, and fails the comparison of logits."""
    artifact = save_tiny_artifact(tmp_path / "a", tokenizer, **WIDE)
    monkeypatch.setattr(to_gguf.names, "interleave_halves", lambda rows, heads: rows)
    assert_fails(3, "logits of the written model differ", artifact, tmp_path / "x.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_token_ids_do_not_verify(wide: Path, tmp_path: Path) -> None:
    assert run(wide, tmp_path / "x.gguf", "--verify", "none")[0] == 0
    other = copy(wide, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].reverse()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(VerificationError, match=r"tokenizer\.json gives"):
        verify_tokens(other, tmp_path / "x.gguf")


def test_a_stored_truncation_does_not_make_token_ids_differ(wide: Path, tmp_path: Path) -> None:
    other = copy(wide, tmp_path / "other")
    tokenizer = HfTokenizer.from_file(str(other / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=8)
    tokenizer.save(str(other / "tokenizer.json"))
    assert run(wide, tmp_path / "x.gguf", "--verify", "none")[0] == 0
    assert verify_tokens(other, tmp_path / "x.gguf") > 1000


@pytest.fixture(scope="module")
def trained(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained stories260K, ternary without further training."""
    model, its_tokenizer = load_teacher(tokenizer)
    quantize_(model, QuantConfig(subln="none"))
    path = tmp_path_factory.mktemp("trained") / "stories"
    save_artifact(model, its_tokenizer, path, Manifest(stage="test"))
    return path


def test_full_verification_adds_the_perplexity_of_both(trained: Path, tmp_path: Path) -> None:
    code, out, err = run(trained, tmp_path / "x.gguf", "--verify", "full", "--json")
    assert code == 0, err
    found = json.loads(out)["verified"]["perplexity"]
    assert found["tokens"] > 800
    assert found["written"] == pytest.approx(found["source"], rel=0.01)
    assert found["written"] < 2000  # not the 512 of a model without knowledge, and not nonsense

    (tmp_path / "text").write_text("Once upon a time there was a little girl. " * 9)
    arguments = ("--verify", "full", "--text", tmp_path / "text", "--json")
    code, out, err = run(tmp_path / "x.gguf", tmp_path / "back", *arguments)
    assert code == 0, err
    other = json.loads(out)["verified"]["perplexity"]
    assert other["tokens"] < found["tokens"]
    assert other["written"] == other["source"]


def test_a_rounded_embedding_is_measured_not_refused(trained: Path, tmp_path: Path) -> None:
    arguments = (tmp_path / "x.gguf", "--embed-type", "q4_0", "--verify", "full")
    code, out, err = run(trained, *arguments, "--json")
    assert code == 0, err
    verified = json.loads(out)["verified"]
    assert 0.01 < verified["logits"]["mean_kl"] < 0.2
    assert verified["perplexity"]["written"] > 1.03 * verified["perplexity"]["source"]
    _, out, _ = run(trained, *arguments)
    assert "embedding in Q4_0: 0.0 MB, in F16 0.1 MB; it costs a mean KL of" in out
    assert "% of perplexity" in out
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_rounded_embedding_hides_no_mistake(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_gguf.names, "interleave_halves", lambda rows, heads: rows)
    arguments = (trained, tmp_path / "x.gguf", "--embed-type", "q4_0")
    assert_fails(3, "logits of the written model differ", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_perplexities_that_differ_are_an_error(wide: Path, trained: Path) -> None:
    with pytest.raises(VerificationError, match=r"perplexity of the written model .* 1% apart"):
        verify_perplexity(wide, trained, PROSE)


def test_a_wrong_key_does_not_verify(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_keys = to_gguf.add_keys
    monkeypatch.setattr(
        to_gguf,
        "add_keys",
        lambda writer, keys: add_keys(writer, keys | {"bitnet.rope.freq_base": 2.0, "x.y": 1}),
    )
    assert_fails(3, "differ: bitnet.rope.freq_base, x.y", wide, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_checks_that_cannot_be_made_are_refused_first(
    wide: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, peer = tmp_path / "x.gguf", ("--verify", "llama.cpp")
    assert_fails(2, "--text belongs to", wide, target, "--text", wide / "config.json")
    assert_fails(2, "I2_S is bitnet.cpp's own type", wide, target, *peer, "--type", "i2_s")
    file = data_dir / "stories260k_hf" / "stories260K-f32.gguf"
    assert_fails(2, "belongs to --to gguf", file, tmp_path / "out", *peer)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert_fails(2, 'pip install "wrinklefree[peers]"', wide, target, *peer)
    assert list(tmp_path.iterdir()) == []


def test_float_teacher_says_that_it_is_dequantized(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "stories260k_hf" / "stories260K-f32.gguf"
    code, out, err = run(source, tmp_path / "teacher", "--to", "hf")
    assert code == 0, err
    assert "dequantized to float32" in out
    assert "1.1 MB in the source, 1.0 MB here" in out
    assert_fails(2, "not an empty directory", source, tmp_path / "teacher", "--to", "hf")
