from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HfTokenizer

from wrinklefree.convert.tokenizer_gguf import TokenType, tokenizer_keys
from wrinklefree.engine import pre_tokenizers
from wrinklefree.errors import FormatError

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")


def split(pattern: dict[str, str]) -> dict[str, Any]:
    rule = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [rule, BYTES | {"use_regex": False}]}


def tokenizer(
    rule: dict[str, Any] | None, *, ignore_merges: bool = False, normalizer: str | None = None
) -> dict[str, Any]:
    return {
        "pre_tokenizer": rule,
        "normalizer": {"type": normalizer} if normalizer else None,
        "model": {"ignore_merges": ignore_merges},
    }


def digits(*, individual: bool) -> dict[str, Any]:
    step = {"type": "Digits", "individual_digits": individual}
    return {"type": "Sequence", "pretokenizers": [step, BYTES]}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (tokenizer(BYTES | {"use_regex": True}), "gpt-2"),
        (tokenizer(digits(individual=True)), "smollm"),
        (tokenizer(split({"Regex": LLAMA_3}), ignore_merges=True), "llama-bpe"),
        (tokenizer(split({"Regex": QWEN_2}), normalizer="NFC"), "qwen2"),
    ],
)
def test_pre_tokenizer_is_found_by_its_rules(given: dict[str, Any], name: str) -> None:
    assert pre_tokenizers.name_of(given) == name


@pytest.mark.parametrize(
    "given",
    [
        tokenizer(None),
        tokenizer(BYTES | {"add_prefix_space": True}),
        tokenizer(digits(individual=False)),
        tokenizer(split({"String": LLAMA_3}), ignore_merges=True),  # a literal that never matches
        tokenizer(split({"Regex": LLAMA_3}), ignore_merges=False),
        tokenizer(split({"Regex": QWEN_2})),
        tokenizer(BYTES | {"use_regex": True}, normalizer="NFKC"),
        tokenizer({"type": "Whitespace"}),
    ],
)
def test_unknown_rule_is_shown(given: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="gpt-2, smollm, llama-bpe, qwen2"):
        pre_tokenizers.name_of(given)


def test_smollm2(data_dir: Path) -> None:
    keys = tokenizer_keys(data_dir / "tokenizer_smollm2", {"vocab_size": 49152})
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == "gpt-2"  # this copy of the tokenizer lost its Digits rule
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"]) == 49152
    assert len(keys["tokenizer.ggml.merges"]) == 48900
    assert keys["tokenizer.ggml.bos_token_id"] == 1
    assert keys["tokenizer.ggml.eos_token_id"] == 2
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert "<|im_start|>" in keys["tokenizer.chat_template"]
    assert keys["tokenizer.ggml.token_type"][1] == TokenType.CONTROL


def test_sentencepiece(data_dir: Path) -> None:
    keys = tokenizer_keys(data_dir / "stories260k_hf", {"vocab_size": 512})
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.pre"] == "default"
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    assert "tokenizer.chat_template" not in keys
    kinds = keys["tokenizer.ggml.token_type"]
    assert kinds[0] == TokenType.UNKNOWN
    assert kinds.count(TokenType.BYTE) == 256
    scores = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True))
    assert scores["\u2581t"] > scores["he"] > scores["\u2581a"] > scores["a"]


def test_rows_without_a_token_become_padding(data_dir: Path) -> None:
    keys = tokenizer_keys(data_dir / "stories260k_hf", {"vocab_size": 520})
    assert keys["tokenizer.ggml.tokens"][512:514] == ["[PAD512]", "[PAD513]"]
    assert keys["tokenizer.ggml.token_type"][512] == TokenType.UNUSED


def test_more_tokens_than_rows(data_dir: Path) -> None:
    with pytest.raises(FormatError, match=r"0\.\.511.*500 embedding rows"):
        tokenizer_keys(data_dir / "stories260k_hf", {"vocab_size": 500})


@pytest.mark.parametrize("token_id", [-1, 512, 2**32 - 1])
def test_special_id_outside_of_the_vocabulary(
    data_dir: Path, tmp_path: Path, token_id: int
) -> None:
    shutil.copy(data_dir / "stories260k_hf" / "tokenizer.json", tmp_path)
    config = {"vocab_size": 512, "bos_token_id": 1, "eos_token_id": token_id}
    with pytest.raises(FormatError, match=rf"eos.*{token_id}"):
        tokenizer_keys(tmp_path, config)


def test_special_token_that_is_no_token(data_dir: Path, tmp_path: Path) -> None:
    shutil.copy(data_dir / "stories260k_hf" / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</done>"}))
    with pytest.raises(FormatError, match="</done>"):
        tokenizer_keys(tmp_path, {"vocab_size": 512})


def test_second_end_token_of_generation_config(data_dir: Path, tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(data_dir / "stories260k_hf" / file, tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    keys = tokenizer_keys(tmp_path, {"vocab_size": 512})
    assert keys["tokenizer.ggml.eos_token_id"] == 2
    assert keys["tokenizer.ggml.eot_token_id"] == 7


def test_other_tokenizer_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(FormatError, match="Unigram"):
        tokenizer_keys(tmp_path, {"vocab_size": 10})


def test_a_stored_truncation_and_padding_say_nothing_about_the_frame(
    data_dir: Path, tmp_path: Path
) -> None:
    source = data_dir / "stories260k_hf"
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    given = HfTokenizer.from_file(str(source / "tokenizer.json"))
    given.enable_truncation(max_length=2)
    given.enable_padding(length=8, pad_id=2, pad_token="</s>")
    given.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_keys(tmp_path, {"vocab_size": 512}) == tokenizer_keys(
        source, {"vocab_size": 512}
    )
