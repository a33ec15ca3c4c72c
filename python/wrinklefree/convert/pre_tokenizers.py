"""Which pre-tokenizer rule of tokenizer.json is which `tokenizer.ggml.pre` name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Regex
from tokenizers import pre_tokenizers as steps_of

from wrinklefree.errors import FormatError, nearest

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3 = _WORDS + r"\p{N}{1,3}" + _REST
_QWEN_2 = _WORDS + r"\p{N}" + _REST

_GPT_2_BYTES = ("ByteLevel", True)
_PLAIN_BYTES = ("ByteLevel", False)

# A rule is its steps and whether the model skips merges for words that are tokens already:
# llama.cpp ties that flag to the name, so a mismatch would change ids.
_RULES: dict[str, tuple[tuple[tuple[Any, ...], ...], bool]] = {
    "gpt-2": ((_GPT_2_BYTES,), False),
    "smollm": ((("Digits", True), _GPT_2_BYTES), False),
    "llama-bpe": ((("Split", "Regex", _LLAMA_3, "Isolated", False), _PLAIN_BYTES), True),
    "qwen2": ((("Split", "Regex", _QWEN_2, "Isolated", False), _PLAIN_BYTES), False),
}


def detect(tokenizer: Mapping[str, Any]) -> str:
    """`tokenizer.ggml.pre` of a byte-level BPE tokenizer.json, from its rules and nothing else.

    Raises FormatError that shows the rule when no name stands for it.
    """
    steps = tuple(_step(step) for step in _flatten(tokenizer.get("pre_tokenizer")))
    ignores_merges = bool(tokenizer["model"].get("ignore_merges", False))
    for name, rule in _RULES.items():
        if rule == (steps, ignores_merges):
            return name
    raise FormatError(
        f"the pre-tokenizer {json.dumps(tokenizer.get('pre_tokenizer'))} (ignore_merges "
        f"{ignores_merges}) is none of those with a GGUF name: {', '.join(_RULES)}"
    )


def rule(name: object) -> tuple[steps_of.PreTokenizer, bool]:
    """The pre-tokenizer that a `tokenizer.ggml.pre` name stands for, and its ignore_merges."""
    if not isinstance(name, str) or name not in _RULES:
        raise FormatError(
            f"pre-tokenizer {name!r} is not supported{nearest(str(name), _RULES)}; "
            f"supported: {', '.join(_RULES)}"
        )
    steps, ignores_merges = _RULES[name]
    return steps_of.Sequence([_build(step) for step in steps]), ignores_merges


def _build(step: tuple[Any, ...]) -> steps_of.PreTokenizer:
    kind, *arguments = step
    if kind == "Digits":
        return steps_of.Digits(individual_digits=arguments[0])
    if kind == "Split":
        _, pattern, behavior, invert = arguments
        return steps_of.Split(Regex(pattern), behavior.lower(), invert)
    return steps_of.ByteLevel(add_prefix_space=False, use_regex=arguments[0])


def _flatten(rule: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if rule is None:
        return []
    if rule["type"] == "Sequence":
        return [step for part in rule["pretokenizers"] for step in _flatten(part)]
    return [rule]


def _step(rule: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a step changes ids; a literal pattern and a regex of the same text are different."""
    kind = rule["type"]
    if kind == "ByteLevel" and not rule.get("add_prefix_space", True):
        return (kind, rule.get("use_regex", True))
    if kind == "Digits":
        return (kind, rule.get("individual_digits", False))
    if kind == "Split":
        ((pattern_kind, pattern),) = rule["pattern"].items()
        return (kind, pattern_kind, pattern, rule["behavior"], rule.get("invert", False))
    return (kind, "unsupported")
