"""The tokenizer keys of a GGUF file as Hugging Face tokenizer files, without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from wrinklefree.convert import pre_tokenizers
from wrinklefree.convert.tokenizer_gguf import TokenType
from wrinklefree.errors import FormatError

_PADDING = re.compile(r"\[PAD\d+\]")  # how converters name rows that no token has
_WORD_START = "\u2581"


def write_tokenizer(metadata: Mapping[str, Any], directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template, if there is one.

    Raises FormatError for missing or inconsistent keys and for rules without a Hugging Face form.
    """
    tokens = _list(metadata, "tokens", str)
    kinds = _list(metadata, "token_type", int) or [int(TokenType.NORMAL)] * len(tokens)
    if not tokens or len(kinds) != len(tokens):
        raise FormatError(f"the file has {len(tokens)} tokens and {len(kinds)} token types")
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(metadata, tokens, kinds)
    elif model == "llama":
        tokenizer = _sentencepiece(metadata, tokens, kinds)
    else:
        raise FormatError(f"tokenizer model {model!r} is not supported; gpt2 and llama are")
    tokenizer.add_tokens(
        [
            AddedToken(text, special=kind != TokenType.USER_DEFINED, normalized=False)
            for text, kind in zip(tokens, kinds, strict=True)
            if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        ]
    )
    ids = _special_ids(metadata, len(tokens))
    tokenizer.post_processor = _frame(metadata, tokens, ids)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": tokens[token_id] for name, token_id in ids.items() if name != "eot"},
    }
    (directory / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def token_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """bos, eos and pad ids as config.json and generation_config.json name them; eos may be a list
    of all ids that end a text."""
    ids = _special_ids(metadata, len(metadata.get("tokenizer.ggml.tokens", ())))
    ends = [ids[name] for name in ("eos", "eot") if name in ids]
    found: dict[str, Any] = {f"{k}_token_id": ids[k] for k in ("bos", "pad") if k in ids}
    if ends:
        found["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return found


def _special_ids(metadata: Mapping[str, Any], num_tokens: int) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "eot": "eot", "unknown": "unk", "padding": "pad"}
    ids = {
        hf: metadata[f"tokenizer.ggml.{gguf}_token_id"]
        for gguf, hf in names.items()
        if f"tokenizer.ggml.{gguf}_token_id" in metadata
    }
    bad = {
        name: value
        for name, value in ids.items()
        if not isinstance(value, int) or not 0 <= value < num_tokens
    }
    if bad:
        raise FormatError(f"special ids outside of the file's {num_tokens} tokens: {bad}")
    return ids


def _list(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    values = metadata.get(f"tokenizer.ggml.{name}", [])
    if not isinstance(values, (list, tuple)) or not all(type(value) is kind for value in values):
        raise FormatError(f"tokenizer.ggml.{name} is not a list of {kind.__name__}")
    return list(values)


def _vocabulary(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    """Text -> id without padding rows. Raises FormatError for a text that two ids share."""
    vocabulary: dict[str, int] = {}
    for token_id, (text, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == TokenType.UNUSED and _PADDING.fullmatch(text):
            continue
        if text in vocabulary:
            raise FormatError(f"tokens {vocabulary[text]} and {token_id} are both {text!r}")
        vocabulary[text] = token_id
    return vocabulary


def _byte_level(
    metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]
) -> Tokenizer:
    rule, ignores_merges = pre_tokenizers.rule(metadata.get("tokenizer.ggml.pre"))
    vocabulary = _vocabulary(tokens, kinds)
    merges = [tuple(merge.split(" ")) for merge in _list(metadata, "merges", str)]
    for pair in merges:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise FormatError(f"merge {' '.join(pair)!r} is not made of tokens")
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=ignores_merges)
    )
    tokenizer.pre_tokenizer = rule
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]
) -> Tokenizer:
    vocabulary = _vocabulary(tokens, kinds)
    scores = _list(metadata, "scores", float)
    if len(scores) != len(tokens):
        raise FormatError(f"the file has {len(tokens)} tokens and {len(scores)} scores")
    joinable = {
        text: token_id
        for text, token_id in vocabulary.items()
        if kinds[token_id] in (TokenType.NORMAL, TokenType.USER_DEFINED)
    }
    merges = [
        (-scores[token_id], joinable[text[:cut]], joinable[text[cut:]], text[:cut], text[cut:])
        for text, token_id in joinable.items()
        for cut in range(1, len(text))
        if text[:cut] in joinable and text[cut:] in joinable
    ]
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == 2), None)
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            [(left, right) for *_, left, right in sorted(merges)],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    has_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    prefix = [normalizers.Prepend(_WORD_START)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _WORD_START)])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_WORD_START, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *strip,
        ]
    )
    return tokenizer


def _frame(
    metadata: Mapping[str, Any], tokens: Sequence[str], ids: Mapping[str, int]
) -> processors.TemplateProcessing:
    """Puts begin and end token around a text where the file says so.

    NOTE: without the keys the two tokenizer models differ, as in llama.cpp: SentencePiece adds its
    begin token, byte-level BPE nothing.
    """
    is_llama = metadata.get("tokenizer.ggml.model") == "llama"
    head = metadata.get("tokenizer.ggml.add_bos_token", is_llama) and "bos" in ids
    tail = metadata.get("tokenizer.ggml.add_eos_token", False) and "eos" in ids
    before = f"{tokens[ids['bos']]}:0 " if head else ""
    after = f" {tokens[ids['eos']]}:0" if tail else ""
    used = [name for name, is_used in (("bos", head), ("eos", tail)) if is_used]
    return processors.TemplateProcessing(
        single=f"{before}$A:0{after}",
        pair=f"{before}$A:0{after} {before}$B:1{after}",
        special_tokens=[(tokens[ids[name]], ids[name]) for name in used],
    )
