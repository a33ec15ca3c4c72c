"""What `tokenizer.ggml.pre` names stand for: the rule of a name, and the name of a rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from wrinklefree.errors import FormatError, nearest

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3 = _WORDS + r"\p{N}{1,3}" + _REST
_QWEN_2 = _WORDS + r"\p{N}" + _REST

_ALIASES = {
    "gpt-2": "gpt-2",
    "smollm": "smollm",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "falcon-h1": "llama-bpe",
    "falcon_e": "llama-bpe",  # ik_llama.cpp's name
    "pixtral": "llama-bpe",
    "qwen2": "qwen2",
    "default": "default",
}
# The names that wf-convert gives to a rule; llama.cpp knows them all.
_WRITTEN = ("gpt-2", "smollm", "llama-bpe", "qwen2")


def _split(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _byte_level(*, use_regex: bool) -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to a text before byte-level BPE merges.

    `ignores_merges`: words that are tokens themselves are not merged from their bytes. `adds_bos`:
    files that do not say so mean a start token, too. llama.cpp ties no normalizer to a name; the
    readers of these files do.
    """

    pre_tokenizer: PreTokenizer
    ignores_merges: bool = False
    adds_bos: bool = False
    normalizer: Normalizer | None = None


def rule_of(name: str) -> Rule:
    """The rule that a name stands for; "default" is what llama.cpp does for files without a name.

    Raises FormatError for an unknown name.
    """
    match _ALIASES.get(name):
        case "gpt-2":
            return Rule(_byte_level(use_regex=True))
        case "smollm":
            digits = pre_tokenizers.Digits(individual_digits=True)
            return Rule(pre_tokenizers.Sequence([digits, _byte_level(use_regex=True)]))
        case "llama-bpe":
            steps = [_split(_LLAMA_3), _byte_level(use_regex=False)]
            return Rule(pre_tokenizers.Sequence(steps), ignores_merges=True, adds_bos=True)
        case "qwen2":
            steps = [_split(_QWEN_2), _byte_level(use_regex=False)]
            return Rule(pre_tokenizers.Sequence(steps), normalizer=normalizers.NFC())
        case "default":
            steps = [
                _split(r"[\p{P}\$\+<=>\^~\|]+"),
                _split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
                _split(r"\p{N}+"),
                _split(r"[0-9][0-9][0-9]"),
                _byte_level(use_regex=False),
            ]
            return Rule(pre_tokenizers.Sequence(steps))
    raise FormatError(
        f"pre-tokenizer {name!r} is not supported{nearest(name, _ALIASES)} "
        f"(supported: {', '.join(_ALIASES)})"
    )


def name_of(tokenizer: Mapping[str, Any]) -> str:
    """`tokenizer.ggml.pre` of a byte-level BPE tokenizer.json, from its rules and nothing else.

    Raises FormatError that shows the rule when no name stands for it.
    """
    pre = tokenizer.get("pre_tokenizer")
    ignores_merges = bool(tokenizer["model"].get("ignore_merges", False))
    normalizer = tokenizer.get("normalizer")
    for name in _WRITTEN:
        rule = rule_of(name)
        known = (_steps(_json(rule.pre_tokenizer)), rule.ignores_merges, _json(rule.normalizer))
        if (_steps(pre), ignores_merges, normalizer) == known:
            return name
    raise FormatError(
        f"the pre-tokenizer {json.dumps(pre)} (normalizer {json.dumps(normalizer)}, ignore_merges "
        f"{ignores_merges}) is none of those with a GGUF name: {', '.join(_WRITTEN)}"
    )


def _json(part: PreTokenizer | Normalizer | None) -> Any:
    """A part as tokenizer.json writes it."""
    return None if part is None else json.loads(part.__getstate__())


def _steps(rule: Mapping[str, Any] | None) -> list[tuple[Any, ...]]:
    """The rule as a flat list of what changes ids."""
    if rule is None:
        return []
    if rule["type"] == "Sequence":
        return [step for part in rule["pretokenizers"] for step in _steps(part)]
    return [_step(rule)]


def _step(rule: Mapping[str, Any]) -> tuple[Any, ...]:
    """A literal pattern and a regex of the same text are different steps."""
    kind = rule["type"]
    if kind == "ByteLevel":
        return (kind, rule.get("add_prefix_space", True), rule.get("use_regex", True))
    if kind == "Digits":
        return (kind, rule.get("individual_digits", False))
    if kind == "Split":
        ((pattern_kind, pattern),) = rule["pattern"].items()
        return (kind, pattern_kind, pattern, rule["behavior"], rule.get("invert", False))
    return (kind, json.dumps(rule))
