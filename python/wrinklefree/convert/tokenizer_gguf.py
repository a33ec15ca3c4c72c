"""A Hugging Face tokenizer directory as the tokenizer keys of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from wrinklefree.convert.json_file import read_json
from wrinklefree.engine import pre_tokenizers
from wrinklefree.engine.tokenizer import read_backend
from wrinklefree.errors import FormatError

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_WORD_START = "\u2581"  # SentencePiece's visible space


class TokenType(IntEnum):
    """Values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a tokenizer puts around a text by itself."""

    add_bos: bool
    add_eos: bool


def tokenizer_keys(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer.*` keys for the tokenizer in `path`, padded to config["vocab_size"] tokens.

    Raises FormatError for a tokenizer that GGUF cannot express, for more tokens than embedding
    rows and for special ids outside of the vocabulary.
    """
    tokenizer = read_json(path / "tokenizer.json")
    settings_file = path / "tokenizer_config.json"
    settings = read_json(settings_file) if settings_file.exists() else {}
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise FormatError(
            f"{path}: tokenizer model {model.get('type')!r} has no GGUF form here; only BPE has"
        )
    rows = int(config["vocab_size"])
    tokens, types = _tokens(tokenizer, rows, path)
    special = _special_ids(path, tokenizer, settings, config)
    keys: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    if model.get("byte_fallback"):
        keys |= _sentencepiece_keys(tokenizer, tokens)
    else:
        keys["tokenizer.ggml.model"] = "gpt2"
        keys["tokenizer.ggml.pre"] = pre_tokenizers.name_of(tokenizer)
        keys["tokenizer.ggml.merges"] = [" ".join(_pair(merge)) for merge in model["merges"]]
    outside = {name: token_id for name, token_id in special.items() if not 0 <= token_id < rows}
    if outside:
        raise FormatError(f"{path}: special ids outside of the {rows} tokens: {outside}")
    keys |= {f"tokenizer.ggml.{name}_token_id": token_id for name, token_id in special.items()}
    frame = _frame(path, special)
    keys["tokenizer.ggml.add_bos_token"] = frame.add_bos
    keys["tokenizer.ggml.add_eos_token"] = frame.add_eos
    template = chat_template(path, settings)
    if template:
        keys["tokenizer.chat_template"] = template
    return keys


def chat_template(path: Path, settings: Mapping[str, Any]) -> str | None:
    """The default chat template: its own file first, then tokenizer_config.json."""
    file = path / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _pair(merge: str | list[str]) -> list[str]:
    """A merge rule; tokenizer.json writes it as "a b" (old) or ["a", "b"]."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2 or any(" " in part for part in parts):
        raise FormatError(f"merge rule {merge!r} has no GGUF form")
    return parts


def _tokens(tokenizer: Mapping[str, Any], rows: int, path: Path) -> tuple[list[str], list[int]]:
    """Token texts and types by id; ids that no token has become unused padding."""
    texts = {token_id: text for text, token_id in tokenizer["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in tokenizer.get("added_tokens", [])}
    texts |= {token_id: entry["content"] for token_id, entry in added.items()}
    if texts and (min(texts) < 0 or max(texts) >= rows):
        raise FormatError(
            f"{path}: the tokenizer uses ids {min(texts)}..{max(texts)}, but the model has "
            f"{rows} embedding rows"
        )
    unknown = tokenizer["model"].get("unk_token")
    byte_fallback = tokenizer["model"].get("byte_fallback", False)
    types = []
    for token_id in range(rows):
        text = texts.get(token_id)
        if text is None:
            types.append(TokenType.UNUSED)
        elif text == unknown:
            types.append(TokenType.UNKNOWN)
        elif token_id in added:
            special = added[token_id].get("special", False)
            types.append(TokenType.CONTROL if special else TokenType.USER_DEFINED)
        elif byte_fallback and _BYTE_TOKEN.fullmatch(text):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    padded = [texts.get(token_id, f"[PAD{token_id}]") for token_id in range(rows)]
    return padded, [int(kind) for kind in types]


def _sentencepiece_keys(tokenizer: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Keys of a SentencePiece BPE model (type `llama`): merge ranks become scores.

    llama.cpp joins the pair whose joined token has the highest score; Hugging Face the pair with
    the lowest rank. Tokens that no merge makes (bytes, single characters) are never joined to.
    """
    rank = {
        "".join(_pair(merge)): -float(index)
        for index, merge in reversed(list(enumerate(tokenizer["model"]["merges"])))
    }
    never = -float(len(rank) + 1)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [rank.get(token, never) for token in tokens],
        "tokenizer.ggml.add_space_prefix": _adds_space_prefix(tokenizer),
    }


def _adds_space_prefix(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the text gets a leading space; any other normalizer has no GGUF form."""
    normalizer = tokenizer.get("normalizer") or {"type": "Sequence", "normalizers": []}
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    rest = [step for step in steps if step != {"type": "Prepend", "prepend": _WORD_START}]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _WORD_START}
    if rest != [spaces] or tokenizer.get("pre_tokenizer") is not None:
        raise FormatError(
            f"the SentencePiece rules {normalizer}, {tokenizer.get('pre_tokenizer')} have no GGUF "
            "form"
        )
    return len(rest) != len(steps)


def _special_ids(
    path: Path,
    tokenizer: Mapping[str, Any],
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, int]:
    """GGUF name -> id of the special tokens: the tokenizer's own word first, then the config's."""
    ids = dict(tokenizer["model"]["vocab"])
    ids |= {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens", [])}
    generation_file = path / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    ends = _id_list(generation.get("eos_token_id")) or _id_list(config.get("eos_token_id"))
    special: dict[str, int] = {}
    for gguf, hf in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        text = settings.get(f"{hf}_token")
        text = text.get("content") if isinstance(text, dict) else text
        fallback = ends if hf == "eos" else _id_list(config.get(f"{hf}_token_id"))
        if text is not None:
            if text not in ids:
                raise FormatError(f"{path}: {hf}_token {text!r} is not in the vocabulary")
            special[gguf] = ids[text]
        elif fallback:
            special[gguf] = fallback[0]
    others = [end for end in ends if end != special.get("eos")]
    if others:
        special["eot"] = others[0]
    return special


def _id_list(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(item) for item in value] if isinstance(value, list) else [int(value)]


def _frame(path: Path, special: Mapping[str, int]) -> _Frame:
    """Whether the tokenizer adds its begin and end token, seen by asking it."""
    encoded = read_backend(path / "tokenizer.json").encode("a")
    marks = [bool(mark) for mark in encoded.special_tokens_mask]
    before = encoded.ids[: marks.index(False)]
    after = encoded.ids[len(marks) - marks[::-1].index(False) :]
    for ids, name in ((before, "bos"), (after, "eos")):
        if ids and ids != [special.get(name)]:
            raise FormatError(
                f"{path}: the tokenizer adds the ids {ids}; GGUF can express only its {name} token"
            )
    return _Frame(add_bos=bool(before), add_eos=bool(after))
