"""GGUF keys -> tokenizer.json: ids, texts and flags are those of the source."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from wrinklefree.convert.corpus import STRINGS
from wrinklefree.convert.tokenizer_gguf import tokenizer_keys
from wrinklefree.convert.tokenizer_hf import token_ids, write_tokenizer
from wrinklefree.errors import FormatError


def written(keys: dict[str, Any], directory: Path) -> Tokenizer:
    write_tokenizer(keys, directory)
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.mark.parametrize(("name", "rows"), [("tokenizer_smollm2", 49152), ("stories260k_hf", 512)])
def test_ids_texts_and_flags_survive_the_round_trip(
    data_dir: Path, tmp_path: Path, name: str, rows: int
) -> None:
    source = data_dir / name
    keys = tokenizer_keys(source, {"vocab_size": rows})
    ours = written(keys, tmp_path)
    theirs = Tokenizer.from_file(str(source / "tokenizer.json"))
    for text in STRINGS:
        expected = theirs.encode(text).ids
        assert ours.encode(text).ids == expected, text
        assert ours.decode(expected) == theirs.decode(expected)
    loaded, original = (
        AutoTokenizer.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(source),
    )
    for attribute in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(loaded, attribute) == getattr(original, attribute)
    (tmp_path / "again").mkdir()
    assert tokenizer_keys(tmp_path, {"vocab_size": rows}) == keys


def random_text(rng: random.Random) -> str:
    pools = (
        "abcdefghij klmnopqrstuvwxyz",
        "0123456789",
        " \t\n\r",
        "\r\n",
        "\u0301\u0308\u0323\u200d\ufe0f",
        "👩🚀🇩🇪😀",
        "你好мирعالم",
        ".,;:!?'\"()[]{}<>_-",
    )
    text = "".join(rng.choice(rng.choice(pools)) for _ in range(rng.randrange(1, 30)))
    text += "".join(chr(rng.randrange(0xA0, 0x2FFF)) for _ in range(3))
    return "".join(c for c in text if unicodedata.category(c) not in ("Cs", "Cn"))


def test_small_byte_level_tokenizer_on_random_text(tmp_path: Path) -> None:
    """300 tokens trained here, 1,000 random strings: equal ids, and decoding gives the text."""
    rng = random.Random(7)
    source = Tokenizer(models.BPE())
    source.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    source.train_from_iterator([random_text(rng) for _ in range(200)], trainer)
    directory = tmp_path / "source"
    directory.mkdir()
    source.save(str(directory / "tokenizer.json"))
    keys = tokenizer_keys(directory, {"vocab_size": 300, "eos_token_id": 0})
    ours = written(keys, tmp_path)
    for _ in range(1000):
        text = random_text(rng)
        ids = source.encode(text).ids
        assert ours.encode(text).ids == ids
        assert ours.decode(ids) == text


def small_keys() -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "<e>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.eot_token_id": 2,
    }


def test_tokens_that_are_no_list_are_one_error() -> None:
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.tokens"):
        token_ids(small_keys() | {"tokenizer.ggml.tokens": 4})


def test_all_end_ids_are_kept() -> None:
    assert token_ids(small_keys()) == {"eos_token_id": [3, 2]}


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.model": "bert"},
        {"tokenizer.ggml.pre": "smolm"},
        {"tokenizer.ggml.tokens": []},
        {"tokenizer.ggml.tokens": [1, 2, 3, 4]},
        {"tokenizer.ggml.tokens": 4},
        {"tokenizer.ggml.token_type": [1, 1, 1]},
        {"tokenizer.ggml.merges": ["a"]},
        {"tokenizer.ggml.merges": ["a b c"]},
        {"tokenizer.ggml.merges": ["a x"]},
        {"tokenizer.ggml.eos_token_id": 4},
        {"tokenizer.ggml.eos_token_id": -1},
        {"tokenizer.ggml.eos_token_id": "3"},
        {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0]},
    ],
)
def test_inconsistent_keys_are_one_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"token|merges"):
        write_tokenizer(small_keys() | changes, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_start_token_that_only_the_rule_names_is_written_down(tmp_path: Path) -> None:
    """Readers of Hugging Face files know nothing of GGUF's defaults."""
    keys = small_keys() | {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": 3}
    assert written(keys, tmp_path).encode("ab").ids == [3, 2]
    assert AutoTokenizer.from_pretrained(tmp_path)("ab")["input_ids"] == [3, 2]
    assert tokenizer_keys(tmp_path, {"vocab_size": 4})["tokenizer.ggml.add_bos_token"] is True
