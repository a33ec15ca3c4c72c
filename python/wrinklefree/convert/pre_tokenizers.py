"""Which pre-tokenizer rule of tokenizer.json is which `tokenizer.ggml.pre` name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wrinklefree.engine.pre_tokenizers import pre_tokenizer
from wrinklefree.errors import FormatError

_NAMES = ("gpt-2", "smollm", "llama-bpe", "qwen2")
# llama.cpp ties normalization to nothing; the readers of these files tie it to the name.
_NORMALIZERS: dict[str, dict[str, Any]] = {"qwen2": {"type": "NFC"}}


def detect(tokenizer: Mapping[str, Any]) -> str:
    """`tokenizer.ggml.pre` of a byte-level BPE tokenizer.json, from its rules and nothing else.

    A name also stands for a normalizer and for whether words that are tokens skip the merges.
    Raises FormatError that shows the rule when no name stands for it.
    """
    rule = tokenizer.get("pre_tokenizer")
    ignores_merges = bool(tokenizer["model"].get("ignore_merges", False))
    normalizer = tokenizer.get("normalizer")
    for name in _NAMES:
        known, known_ignores = pre_tokenizer(name)
        known_rule = json.loads(known.__getstate__())
        if (_steps(rule), ignores_merges, normalizer) == (
            _steps(known_rule),
            known_ignores,
            _NORMALIZERS.get(name),
        ):
            return name
    raise FormatError(
        f"the pre-tokenizer {json.dumps(rule)} (normalizer {json.dumps(normalizer)}, ignore_merges "
        f"{ignores_merges}) is none of those with a GGUF name: {', '.join(_NAMES)}"
    )


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
