"""Tokenizers of directories and GGUF files against golden vectors and each other."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wrinklefree import _engine
from wrinklefree.engine import Tokenizer
from wrinklefree.errors import FormatError

TEXTS = [
    "Hello world",
    " leading, trailing ",
    "\r\n tabs\tand  double  spaces\n\n",
    "3.14 and 1234567890",
    "don't we'll I'M",
    "naïve café — 東京 привет",
    "👩‍🚀 e\u0301 \u00a0 \u200b",
    "",
    "\x00\x01",
]


def golden_vectors(path: Path) -> list[tuple[str, list[int]]]:
    """(text, ids) of llama.cpp's vocabulary tests."""
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize("name", ["gpt-2", "phi-3"])
def test_gguf_vocabularies_give_llama_cpps_ids(data_dir: Path, name: str) -> None:
    path = data_dir / "gguf_vocab" / f"ggml-vocab-{name}.gguf"
    tokenizer = Tokenizer.from_gguf(_engine.GgufFile(str(path)).metadata)
    vectors = golden_vectors(path)
    assert len(vectors) == 47
    for text, ids in vectors:
        assert tokenizer.encode(text, add_special=False) == ids, repr(text)


@pytest.mark.parametrize("text", TEXTS)
def test_stories_gguf_and_directory_agree(stories_dir: Path, text: str) -> None:
    metadata = _engine.GgufFile(str(stories_dir / "stories260K-f32.gguf")).metadata
    from_gguf, from_dir = Tokenizer.from_gguf(metadata), Tokenizer.from_dir(stories_dir)
    assert from_gguf.encode(text) == from_dir.encode(text)
    assert from_gguf.bos_id == from_dir.bos_id == 1
    assert from_gguf.eos_ids == from_dir.eos_ids == (2,)


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_round_trips_and_its_bytes_are_the_text(data_dir: Path, text: str) -> None:
    tokenizer = Tokenizer.from_dir(data_dir / "tokenizer_smollm2")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()


def test_control_tokens_spelled_in_text_are_text_unless_asked_for(data_dir: Path) -> None:
    tokenizer = Tokenizer.from_dir(data_dir / "tokenizer_smollm2")
    end = tokenizer.special_tokens["<|im_end|>"]
    assert end in tokenizer.eos_ids
    assert end not in tokenizer.encode("a<|im_end|>b")
    assert end in tokenizer.encode("a<|im_end|>b", parse_special=True)
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>b")) == "a<|im_end|>b"
    assert tokenizer.is_special(end)


def test_lone_surrogates_in_text_do_not_fail(data_dir: Path) -> None:
    tokenizer = Tokenizer.from_dir(data_dir / "tokenizer_smollm2")
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def bpe_metadata(**changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level tokenizer with four tokens."""
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["a", "b", "ab", "<e>"],
        "token_type": [1, 1, 1, 3],
        "merges": ["a b"],
        "eos_token_id": 3,
        **changes,
    }
    return {f"tokenizer.ggml.{k}": value for k, value in keys.items() if value is not None}


def test_the_small_tokenizer_itself_is_valid() -> None:
    tokenizer = Tokenizer.from_gguf(bpe_metadata())
    assert tokenizer.encode("abb") == [2, 1]
    assert tokenizer.eos_ids == (3,)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "bert"}, "bert"),
        ({"pre": "gpt-3"}, "did you mean 'gpt-2'"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": []}, "0 tokens"),
        ({"tokens": [1, 2]}, "not a list of strings"),
        ({"tokens": 4}, "not a list of strings"),
        ({"tokens": ["a", "b", "ab", "\udc80"]}, "tokens: 3 ('\\udc80') is not UTF-8"),
        ({"merges": ["a \udc80"]}, "merges: 0 ('a \\udc80') is not UTF-8"),
        (
            {"model": "llama", "scores": [0.0] * 4, "tokens": ["a", "b", "\udc80", "<e>"]},
            "tokens: 2 ('\\udc80') is not UTF-8",
        ),
        ({"token_type": [1]}, "1 values in tokenizer.ggml.token_type"),
        ({"merges": ["a"]}, "not two tokens"),
        ({"merges": ["a b c"]}, "not two tokens"),
        ({"merges": ["a z"]}, "merges"),
        ({"eos_token_id": 4}, "there are 4 tokens"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"bos_token_id": "a"}, "bos_token_id is 'a'"),
        ({"model": "llama", "scores": [0.0]}, "4 tokens and 1 values in tokenizer.ggml.scores"),
    ],
)
def test_broken_metadata_is_one_line(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(FormatError) as error:
        Tokenizer.from_gguf(bpe_metadata(**changes))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("start", ["<|a:b|>", "<a:0>", "$A", "$1"])
def test_start_and_end_tokens_may_have_any_spelling(start: str) -> None:
    """`tokenizers` has a notation for templates in which ":" and "$" mean something."""
    metadata = bpe_metadata(
        tokens=["a", "b", "ab", start],
        bos_token_id=3,
        eos_token_id=3,
        add_bos_token=True,
        add_eos_token=True,
    )
    assert Tokenizer.from_gguf(metadata).encode("ab") == [3, 2, 3]


def test_directory_without_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no tokenizer\.json"):
        Tokenizer.from_dir(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(FormatError, match=r"tokenizer\.json: "):
        Tokenizer.from_dir(tmp_path)


def test_other_threads_go_on_while_a_long_text_is_encoded(stories_dir: Path) -> None:
    tokenizer = Tokenizer.from_dir(stories_dir)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(tokenizer.encode, "a b" * 300_000)
        counted = 0
        while not long.done():
            time.sleep(0.001)
            counted += 1
        assert len(long.result()) > 300_000
    assert counted > 10  # with the interpreter lock held: 1 or 2


def test_all_end_tokens_of_a_directory_count(stories_dir: Path, tmp_path: Path) -> None:
    """Chat models name their end of turn in generation_config.json alone. The tokenizer's own end
    token is the first: it is the eos_token of chat templates."""
    shutil.copytree(stories_dir, tmp_path / "model")
    generation = {"eos_token_id": [7, 1, 2]}
    (tmp_path / "model/generation_config.json").write_text(json.dumps(generation))
    assert Tokenizer.from_dir(tmp_path / "model").eos_ids == (2, 7, 1)


def test_the_own_end_token_of_a_gguf_file_is_the_first() -> None:
    tokens = {"tokens": ["a", "b", "<|im_end|>", "<e>"], "token_type": [1, 1, 3, 3], "merges": []}
    assert Tokenizer.from_gguf(bpe_metadata(**tokens)).eos_ids == (3, 2)


def test_a_stored_truncation_and_padding_are_not_obeyed(data_dir: Path, tmp_path: Path) -> None:
    """transformers writes into tokenizer.json what the last call of a training script asked for."""
    source = data_dir / "tokenizer_smollm2"
    shutil.copytree(source, tmp_path / "model")
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "<|im_end|>",
    }
    (tmp_path / "model/tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer, plain = Tokenizer.from_dir(tmp_path / "model"), Tokenizer.from_dir(source)
    text = "one two three four five six seven eight<|im_end|>"
    for parse in (False, True):
        wanted = plain.encode(text, parse_special=parse)
        assert 4 < len(wanted) < 64
        assert tokenizer.encode(text, parse_special=parse) == wanted


LLAMA_3_NAMES = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "falcon_e")


@pytest.mark.parametrize("name", LLAMA_3_NAMES)
def test_names_that_llama_cpp_gives_a_start_token_without_being_asked(name: str) -> None:
    metadata = bpe_metadata(pre=name, bos_token_id=3)
    assert Tokenizer.from_gguf(metadata).encode("ab") == [3, 2]
    asked = metadata | {"tokenizer.ggml.add_bos_token": False}
    assert Tokenizer.from_gguf(asked).encode("ab") == [2]


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "qwen2", "default"])
def test_other_names_give_a_start_token_only_where_asked(name: str) -> None:
    metadata = bpe_metadata(pre=name, bos_token_id=3)
    assert Tokenizer.from_gguf(metadata).encode("ab") == [2]
    asked = metadata | {"tokenizer.ggml.add_bos_token": True}
    assert Tokenizer.from_gguf(asked).encode("ab") == [3, 2]
