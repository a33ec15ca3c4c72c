"""The pre-tokenizer rules that `tokenizer.ggml.pre` names stand for."""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers
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
    "qwen2": "qwen2",
    "default": "default",
}


def _split(pattern: str) -> PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _byte_level(*, use_regex: bool) -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def pre_tokenizer(name: str) -> tuple[PreTokenizer, bool]:
    """The rule, and whether words that are tokens themselves skip the merges.

    "default" is what llama.cpp does for files that name no rule. Raises FormatError for an unknown
    name.
    """
    rule = _ALIASES.get(name)
    if rule == "gpt-2":
        return _byte_level(use_regex=True), False
    if rule == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, _byte_level(use_regex=True)]), False
    if rule == "llama-bpe":
        return pre_tokenizers.Sequence([_split(_LLAMA_3), _byte_level(use_regex=False)]), True
    if rule == "qwen2":
        return pre_tokenizers.Sequence([_split(_QWEN_2), _byte_level(use_regex=False)]), False
    if rule == "default":
        steps = [
            _split(r"[\p{P}\$\+<=>\^~\|]+"),
            _split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
            _split(r"\p{N}+"),
            _split(r"[0-9][0-9][0-9]"),
            _byte_level(use_regex=False),
        ]
        return pre_tokenizers.Sequence(steps), False
    raise FormatError(
        f"pre-tokenizer {name!r} is not supported{nearest(name, _ALIASES)} "
        f"(supported: {', '.join(_ALIASES)})"
    )
