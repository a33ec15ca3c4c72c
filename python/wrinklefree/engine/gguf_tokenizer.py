"""A `tokenizers.Tokenizer` from the metadata of a GGUF file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from wrinklefree.engine.pre_tokenizers import Rule, rule_of
from wrinklefree.errors import FormatError

_PREFIX = "tokenizer.ggml."
_SPACE = "\u2581"  # SentencePiece's visible space

# Values of tokenizer.ggml.token_type.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
# SentencePiece merges are found by every cut of every token, which takes the square of its length.
_MAX_TOKEN_CHARACTERS = 1024
# What stands for the texts in a post-processor, as tokenizer.json has it.
_TEXT = {"Sequence": {"id": "A", "type_id": 0}}
_SECOND_TEXT = {"Sequence": {"id": "B", "type_id": 0}}


def build_tokenizer(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE (`gpt2`) or SentencePiece with byte fallback (`llama`).

    Raises FormatError when keys are missing or of another type, lists disagree in length, a token
    is there twice or no UTF-8, or the kind is another one.
    """
    tokens = _tokens(metadata)
    types = _list_beside(tokens, metadata, "token_type", int, [_NORMAL] * len(tokens))
    if not all(_NORMAL <= token_type <= _BYTE for token_type in types):
        raise FormatError(f"{_PREFIX}token_type has a value that is not in {_NORMAL}..{_BYTE}")
    kind = metadata.get(_PREFIX + "model")
    if kind == "gpt2":
        rule = rule_of(str(metadata.get(_PREFIX + "pre", "default")))
        tokenizer = _byte_level_bpe(metadata, tokens, rule)
        default_bos = rule.adds_bos
    elif kind == "llama":
        tokenizer = _sentencepiece(metadata, tokens, types)
        default_bos = True
    else:
        raise FormatError(f"tokenizer model {kind!r} is not supported (gpt2 and llama are)")
    pairs = list(zip(tokens, types, strict=True))
    special = [token for token, token_type in pairs if token_type in (_UNKNOWN, _CONTROL)]
    user_defined = [token for token, token_type in pairs if token_type == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in user_defined])
    _add_frame(tokenizer, metadata, tokens, default_bos=default_bos)
    return tokenizer


def special_id(metadata: Mapping[str, Any], name: str, num_tokens: int) -> int | None:
    """`tokenizer.ggml.NAME_token_id`, checked against the vocabulary; None when absent."""
    value = metadata.get(f"{_PREFIX}{name}_token_id")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < num_tokens:
        raise FormatError(f"{_PREFIX}{name}_token_id is {value!r}, there are {num_tokens} tokens")
    return value


def num_tokens(metadata: Mapping[str, Any]) -> int:
    """Size of the vocabulary; 0 for a file without one. Raises FormatError if it is no list."""
    return len(_strings(metadata, "tokens")) if _PREFIX + "tokens" in metadata else 0


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    values = metadata.get(_PREFIX + key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise FormatError(f"{_PREFIX}{key} is missing or not a list of strings")
    for index, value in enumerate(values):
        if not _is_utf8(value):
            raise FormatError(f"{_PREFIX}{key}: {index} ({value[:64]!r}) is not UTF-8")
    return values


def _is_utf8(text: str) -> bool:
    """False where the file has other bytes, which are read as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = _strings(metadata, "tokens")
    if not tokens:
        raise FormatError(f"{_PREFIX}tokens is empty: the file has 0 tokens")
    longest = max(tokens, key=len)
    if len(longest) > _MAX_TOKEN_CHARACTERS:
        raise FormatError(
            f"{_PREFIX}tokens has a token of {len(longest)} characters, the limit is "
            f"{_MAX_TOKEN_CHARACTERS}"
        )
    first: dict[str, int] = {}
    for index, token in enumerate(tokens):
        other = first.setdefault(token, index)
        if other != index:
            raise FormatError(f"{_PREFIX}tokens: {other} and {index} are both {token[:64]!r}")
    return tokens


def _list_beside(
    tokens: Sequence[str],
    metadata: Mapping[str, Any],
    key: str,
    item: type,
    default: Sequence[Any] | None = None,
) -> Sequence[Any]:
    """A list with one `item` for each token."""
    values = metadata.get(_PREFIX + key, default)
    if not isinstance(values, list) or len(values) != len(tokens):
        found = len(values) if isinstance(values, list) else "no"
        raise FormatError(f"the file has {len(tokens)} tokens and {found} values in {_PREFIX}{key}")
    if not all(type(value) is item for value in values):
        raise FormatError(f"{_PREFIX}{key} has values that are not of type {item.__name__}")
    return values


def _byte_level_bpe(
    metadata: Mapping[str, Any], tokens: Sequence[str], rule: Rule
) -> tokenizers.Tokenizer:
    merges = []
    for merge in _strings(metadata, "merges"):
        parts = merge.split(" ")
        if len(parts) != 2:
            raise FormatError(f"{_PREFIX}merges: {merge[:64]!r} is not two tokens")
        merges.append((parts[0], parts[1]))
    vocab = {token: index for index, token in enumerate(tokens)}
    try:
        model = models.BPE(vocab=vocab, merges=merges, ignore_merges=rule.ignores_merges)
    except Exception as error:  # the library raises its base class for an unknown part of a merge
        raise FormatError(f"{_PREFIX}merges: {error}") from error
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = rule.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if rule.normalizer is not None:
        tokenizer.normalizer = rule.normalizer
    return tokenizer


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]
) -> tokenizers.Tokenizer:
    scores = _list_beside(tokens, metadata, "scores", float)
    if any(math.isnan(score) for score in scores):
        raise FormatError(f"{_PREFIX}scores has a NaN")
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = special_id(metadata, "unknown", len(tokens))
    model = models.BPE(
        vocab=vocab,
        merges=_merges_by_score(vocab, scores, types),
        unk_token=tokens[unknown] if unknown is not None else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(" ", _SPACE)
    if metadata.get(_PREFIX + "add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
    else:
        tokenizer.normalizer = spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return tokenizer


def _merges_by_score(
    vocab: Mapping[str, int], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """SentencePiece joins the neighbours whose union scores highest: merges in that order."""
    joinable = (_NORMAL, _USER_DEFINED, _UNUSED)
    ranked = []
    for token, index in vocab.items():
        if types[index] not in joinable:
            continue
        for cut in range(1, len(token)):
            left, right = vocab.get(token[:cut]), vocab.get(token[cut:])
            if left is not None and right is not None:
                ranked.append((-scores[index], index, left, right, token[:cut], token[cut:]))
    ranked.sort(key=lambda merge: merge[:4])
    return [(merge[4], merge[5]) for merge in ranked]


def _add_frame(
    tokenizer: tokenizers.Tokenizer,
    metadata: Mapping[str, Any],
    tokens: Sequence[str],
    *,
    default_bos: bool,
) -> None:
    """Makes encoding with special tokens add BOS and EOS where the file asks for them."""
    frame: list[dict[str, Any]] = [_TEXT]
    special = {}
    for name, is_added in (
        ("bos", metadata.get(_PREFIX + "add_bos_token", default_bos)),
        ("eos", metadata.get(_PREFIX + "add_eos_token", False)),
    ):
        index = special_id(metadata, name, len(tokens))
        if is_added and index is not None:
            token = tokens[index]
            piece = {"SpecialToken": {"id": token, "type_id": 0}}
            frame.insert(0 if name == "bos" else len(frame), piece)
            special[token] = {"id": token, "ids": [index], "tokens": [token]}
    if special:
        template = {"single": frame, "pair": [*frame, _SECOND_TEXT], "special_tokens": special}
        # Not by its constructor, whose notation has no words for tokens with ":" or "$" in them.
        processor = processors.TemplateProcessing()
        processor.__setstate__(json.dumps({"type": "TemplateProcessing", **template}).encode())
        tokenizer.post_processor = processor
