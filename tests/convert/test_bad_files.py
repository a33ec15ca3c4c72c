"""Damaged and hostile model files: wf-convert and the engine say so in one line, nothing is left.

What the parser itself refuses is tested on bytes, under the sanitizers, by csrc/tests/engine_gguf.
"""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.convert.gguf_edits import rewrite_gguf
from tests.convert.tiny_models import edit_json
from wrinklefree import LLM
from wrinklefree.cli.convert import main
from wrinklefree.errors import WrinklefreeError

SECONDS = 10.0  # for one small file, on a busy machine
TOKENS = "tokenizer.ggml.tokens"
NUM_TOKENS = 512
U32, STRING, ARRAY = 4, 8, 9

Damage = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def sound(data_dir: Path) -> Path:
    """A file without damage; its conversion has imported what the others need."""
    path = data_dir / "stories260k_hf" / "stories260K-f32.gguf"
    result = CliRunner().invoke(main, [str(path), "converted", "--to", "hf", "--dry-run"])
    assert result.exit_code == 0, result.output
    return path


def refuse(path: Path, problem: str, *, is_run: bool = True) -> None:
    """wf-convert and the engine refuse `path` in time, in one line, and write nothing."""
    before = sorted(path.parent.rglob("*"))
    begin = time.monotonic()
    result = CliRunner().invoke(main, [str(path), str(path.with_name("converted")), "--to", "hf"])
    assert result.exit_code in (1, 2), result.output
    errors = [line for line in result.stderr.splitlines() if not is_of_torch(line)]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("error: ")
    assert problem in errors[0]
    if is_run:
        with pytest.raises(WrinklefreeError) as error:
            LLM(path)
        assert "\n" not in str(error.value)
        assert problem in str(error.value)
    assert time.monotonic() - begin < SECONDS
    assert sorted(path.parent.rglob("*")) == before


def is_of_torch(line: str) -> bool:
    """A warning that importing torch's own packages gives, once."""
    return "torch/utils/_pytree.py" in line


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def put(offset: int, layout: str, value: int) -> Damage:
    def damage(whole: bytes) -> bytes:
        field = struct.pack(layout, value)
        return whole[:offset] + field + whole[offset + len(field) :]

    return damage


def with_entries(*entries: bytes) -> Damage:
    """More metadata in front of what is there."""

    def damage(whole: bytes) -> bytes:
        (count,) = struct.unpack_from("<Q", whole, 16)
        return whole[:16] + struct.pack("<Q", count + len(entries)) + b"".join(entries) + whole[24:]

    return damage


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


ONE = struct.pack("<I", 1)
ALIGNMENT = b"general.alignment"
DAMAGES: dict[str, tuple[Damage, str]] = {
    **{f"{size} bytes": (lambda whole, n=size: whole[:n], "") for size in (0, 1, 3, 4, 8, 23, 24)},
    "magic": (lambda whole: b"GGUG" + whole[4:], "not a GGUF file"),
    "version 4": (put(4, "<I", 4), "version"),
    "big-endian": (put(4, ">I", 3), "version"),
    "tensors 2^63": (put(8, "<Q", 2**63), "tensor count"),
    "entries 2^64-1": (put(16, "<Q", 2**64 - 1), "metadata count"),
    "empty key": (with_entries(entry(b"", U32, ONE)), "key"),
    "long key": (with_entries(entry(b"k" * 65536, U32, ONE)), "key length"),
    "key is not UTF-8": (with_entries(entry(b"\xff", U32, ONE)), "not UTF-8"),
    "key with NUL": (with_entries(entry(b"a\0b", U32, ONE)), "NUL"),
    "key twice": (with_entries(entry(b"k", U32, ONE), entry(b"k", U32, ONE)), "there twice"),
    "key again": (with_entries(entry(TOKENS.encode(), U32, ONE)), "there twice"),
    "string 2^63": (with_entries(entry(b"k", STRING, struct.pack("<Q", 2**63))), "k length"),
    "type 13": (with_entries(entry(b"k", 13, ONE)), "no metadata type"),
    "bool 2": (with_entries(entry(b"k", 7, b"\2")), "not 0 or 1"),
    "array 2^61": (with_entries(entry(b"k", ARRAY, struct.pack("<IQ", 10, 2**61))), "array length"),
    "array of arrays": (with_entries(entry(b"k", ARRAY, struct.pack("<IQ", 9, 1))), "arrays of"),
    "alignment 3": (with_entries(entry(ALIGNMENT, U32, struct.pack("<I", 3))), "power of two"),
    "part 1 of 2": (with_entries(entry(b"split.count", 2, b"\2\0")), "one part of a model"),
    "cut by a byte": (lambda whole: whole[:-1], "truncated"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_bytes(sound: Path, tmp_path: Path, name: str) -> None:
    damage, problem = DAMAGES[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(damage(sound.read_bytes()))
    refuse(path, problem)


def tokens(**changes: str) -> list[str]:
    """Tokens that are sound but for some."""
    return [changes.get(f"t{i}", f"t{i}") for i in range(NUM_TOKENS)]


def byte_level(merges: list[Any]) -> dict[str, Any]:
    """Keys of a tokenizer with the letters a..d and "ab"."""
    known = dict(zip(("t3", "t4", "t5", "t6", "t7"), ("a", "b", "c", "d", "ab"), strict=True))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": merges,
        TOKENS: tokens(**known),
    }


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "scores are integers": ({"tokenizer.ggml.scores": [0] * NUM_TOKENS}, "of type float"),
    "a score is NaN": ({"tokenizer.ggml.scores": [float("nan")] * NUM_TOKENS}, "NaN"),
    "scores too short": ({"tokenizer.ggml.scores": [0.0]}, "512 tokens and 1 values"),
    "types are floats": ({"tokenizer.ggml.token_type": [1.0] * NUM_TOKENS}, "of type int"),
    "type 7": ({"tokenizer.ggml.token_type": [7] * NUM_TOKENS}, "not in 1..6"),
    "types too short": ({"tokenizer.ggml.token_type": [1]}, "512 tokens and 1 values"),
    "tokens are numbers": ({TOKENS: list(range(NUM_TOKENS))}, "not a list of strings"),
    "no tokens": ({TOKENS: None}, "tokens"),
    "more tokens than rows": ({TOKENS: [f"t{i}" for i in range(513)]}, ""),
    "a token of 2 MB": ({TOKENS: tokens(t9="x" * 2_000_000)}, "2000000 characters"),
    "equal tokens": ({TOKENS: ["x"] * NUM_TOKENS}, "0 and 1 are both 'x'"),
    "merges are numbers": (byte_level(list(range(9))), "not a list of strings"),
    "a merge of one part": (byte_level(["a"]), "is not two tokens"),
    "a merge of three parts": (byte_level(["a b c"]), "is not two tokens"),
    "a merge of unknown parts": (byte_level(["a z"]), "merges"),
    "a merge into no token": (byte_level(["c d"]), "merges"),
    "a million merges": (byte_level(["c d"] * 1_000_000), "merges"),
    "eos -1": ({"tokenizer.ggml.eos_token_id": -1}, "eos_token_id"),
    "eos 2^32-1": ({"tokenizer.ggml.eos_token_id": 2**32 - 1}, "eos_token_id"),
    "eos is text": ({"tokenizer.ggml.eos_token_id": "</s>"}, "eos_token_id"),
    "pre-tokenizer": (byte_level(["a b"]) | {"tokenizer.ggml.pre": "nobody's"}, "nobody's"),
    "tokenizer model": ({"tokenizer.ggml.model": "rwkv"}, "'rwkv' is not supported"),
}


@pytest.mark.parametrize("name", KEYS)
def test_tokenizer_keys(sound: Path, tmp_path: Path, name: str) -> None:
    keys, problem = KEYS[name]
    refuse(rewrite_gguf(sound, tmp_path / "m.gguf", keys=keys), problem)


@pytest.mark.parametrize(
    "keys",
    [
        {"tokenizer.ggml.bos_token_id": 2},  # the id of the end
        {TOKENS: tokens(t9="")},  # a token that no text has
        byte_level(["a b"] * 1_000_000),
    ],
    ids=["bos is eos", "empty token", "a million equal merges"],
)
def test_odd_keys_that_have_a_meaning(sound: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    path = rewrite_gguf(sound, tmp_path / "m.gguf", keys=keys)
    begin = time.monotonic()
    result = CliRunner().invoke(main, [str(path), str(tmp_path / "converted"), "--to", "hf"])
    assert result.exit_code == 0, result.output
    LLM(path)
    assert time.monotonic() - begin < 2 * SECONDS


@pytest.mark.parametrize("count", [513, 2**32 - 1])
def test_more_layers_than_any_model_has(sound: Path, tmp_path: Path, count: int) -> None:
    """Names of the tensors that they should have would fill the memory."""
    path = rewrite_gguf(sound, tmp_path / "m.gguf", keys={"llama.block_count": count})
    refuse(path, "allowed are 1 to 512")


def test_a_tensor_that_no_architecture_has(sound: Path, tmp_path: Path) -> None:
    extra = np.zeros((2, 2), np.float32)
    path = rewrite_gguf(sound, tmp_path / "m.gguf", tensors={"blk.0.router.weight": extra})
    refuse(path, "blk.0.router.weight")


def test_a_terabyte_of_holes(sound: Path, tmp_path: Path) -> None:
    """Bytes after the last tensor are nobody's, however many they are."""
    path = tmp_path / "m.gguf"
    shutil.copy(sound, path)
    with path.open("r+b") as file:
        file.truncate(2**40)
    result = CliRunner().invoke(main, [str(path), str(tmp_path / "converted"), "--to", "hf"])
    assert result.exit_code == 0, result.output


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def directory(data_dir: Path, tmp_path: Path) -> Path:
    """A model directory that may be damaged."""
    path = tmp_path / "model"
    path.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(data_dir / "stories260k_hf" / name, path)
    return path


def test_shards_outside_of_the_directory(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.rename(directory.parent / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(directory, "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_hidden_layers": 513}, "allowed are 1 to 512"),
        ({"num_hidden_layers": 10**9}, "allowed are 1 to 512"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"head_dim": 10**9}, "allowed are 1 to 1024"),
    ],
    ids=["513 layers", "a billion layers", "no layers", "head size"],
)
def test_sizes_that_no_model_has(directory: Path, changes: dict[str, Any], problem: str) -> None:
    edit_json(directory / "config.json", **changes)
    target = directory.parent / "converted.gguf"
    result = CliRunner().invoke(main, [str(directory), str(target), "--ternarize", "absmean"])
    assert result.exit_code == 1, result.output
    assert problem in result.stderr
    with pytest.raises(WrinklefreeError, match=problem):
        LLM(directory)


def test_pickled_weights_are_never_opened(directory: Path, tmp_path: Path) -> None:
    (directory / "model.safetensors").unlink()
    trap = tmp_path / "sprung"
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(trap)))
    refuse(directory, "safetensors")
    assert not trap.exists()


def test_code_of_a_model_is_never_run(directory: Path, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    source = f"import pathlib\npathlib.Path({str(trap)!r}).touch()\nclass A: pass\n"
    (directory / "modeling.py").write_text(source)
    config = json.loads((directory / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "modeling.A", "AutoConfig": "modeling.A"}}
    (directory / "config.json").write_text(json.dumps(config))
    LLM(directory)
    out = tmp_path / "out.gguf"
    result = CliRunner().invoke(main, [str(directory), str(out), "--ternarize", "absmean"])
    assert result.exit_code == 0, result.output
    assert not trap.exists()
