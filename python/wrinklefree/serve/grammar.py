"""Answers of a given form, and calls of tools: which tokens may come next, by llguidance.

A grammar is compiled once for a request, on a helper thread; every choice walks a copy of its own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from wrinklefree.serve.errors import ApiError, bad_request
from wrinklefree.serve.grammar_trial import Trials
from wrinklefree.serve.model import Tokenizer
from wrinklefree.serve.protocol import (
    JsonObjectFormat,
    JsonSchemaFormat,
    RegexFormat,
    ResponseFormat,
    Tool,
)
from wrinklefree.serve.tool_calls import CLOSE, OPEN


class Grammar:
    """One walk through a grammar. For one thread at a time."""

    def __init__(self, matcher: LLMatcher, num_words: int) -> None:
        self._matcher = matcher
        self._words = np.zeros(num_words, np.uint32)

    def copy(self) -> Grammar:
        """A walk from here that goes its own way."""
        return Grammar(self._matcher.deep_copy(), len(self._words))

    def allowed(self) -> NDArray[np.uint32]:
        """uint32 words; token i may come next if bit i % 32 of word i / 32 is set."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        return self._words

    def take(self, token: int) -> None:
        """Goes on with a token that was allowed."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def is_complete(self) -> bool:
        """True if nothing can follow any more."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RuntimeError(f"the grammar gave up: {self._matcher.get_error()}")


class Grammars:
    """Compiles response formats for one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._compiled: LLTokenizer | None = None
        self._trials = Trials()

    def of(self, form: ResponseFormat) -> Grammar | None:
        """The grammar of a response format; None for plain text. Raises ApiError 400 for a schema
        or pattern that cannot be followed, with the reason."""
        if isinstance(form, JsonObjectFormat):
            source = _json_grammar({"type": "object"})
        elif isinstance(form, JsonSchemaFormat):
            source = _json_grammar(form.json_schema.schema_)
        elif isinstance(form, RegexFormat):
            source = LLMatcher.grammar_from_regex(form.regex)
        else:
            return None
        return self._compile(source, "response_format")

    def _compile(self, source: str, param: str) -> Grammar:
        if not self._trials.passes(source):
            raise _refusal("it takes too much time or memory", param)
        matcher = LLMatcher(self._vocabulary(), source, log_level=0)
        if matcher.is_error():
            raise _refusal(matcher.get_error(), param)
        grammar = Grammar(matcher, (self._tokenizer.vocab_size + 31) // 32)
        _try_walk(grammar.copy(), param)
        return grammar

    def of_calls(self, tools: Sequence[Tool], *, several: bool) -> Grammar:
        """Calls of these tools and nothing else, as `tool_calls` reads them."""
        kinds = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": tool.function.parameters,
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in tools
        ]
        schema = {"anyOf": kinds, "x-guidance": {"whitespace_flexible": False}}
        more = r'("\n" call)*' if several else ""
        source = "\n".join(
            [
                f"start: call {more}",
                rf'call: "{OPEN}\n" body "\n{CLOSE}"',
                f"body: %json {json.dumps(schema)}",
            ]
        )
        return self._compile(LLMatcher.grammar_from_lark(source), "tools")

    def _vocabulary(self) -> LLTokenizer:
        """Made on first use: it looks at every token, which takes a moment."""
        with self._lock:
            if self._compiled is None:
                self._compiled = LLTokenizer(
                    TokenizerWrapper(_Vocabulary(self._tokenizer)),
                    n_vocab=self._tokenizer.vocab_size,
                    eos_token=list(self._tokenizer.eos_ids),
                )
            return self._compiled


class _Vocabulary:
    """A tokenizer as llguidance wants one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.eos_ids:
            raise bad_request(
                "response_format: this model has no end token", param="response_format"
            )
        special = {index: text for text, index in tokenizer.special_tokens.items()}
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(special)
        self.tokens = [
            special[index].encode() if index in special else tokenizer.token_bytes(index)
            for index in range(tokenizer.vocab_size)
        ]

        self._ids: dict[bytes, int] = {}
        for index, token in enumerate(self.tokens):
            if token and index not in special:
                self._ids.setdefault(token, index)
        self._longest = max(map(len, self._ids))

    def __call__(self, text: bytes) -> list[int]:
        """Tokens with exactly these bytes: the tokenizer's own where it puts nothing in front, as
        SentencePiece does with its space, else the longest ones from left to right."""
        ids = self._tokenizer.encode(text.decode(errors="replace"), add_special=False)
        spelled = [self.tokens[index] for index in ids]
        if spelled[:1] == [b" "] and b"".join(spelled[1:]) == text:
            return ids[1:]
        return ids if b"".join(spelled) == text else self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        ids, begin = [], 0
        while begin < len(text):
            lengths = range(min(self._longest, len(text) - begin), 0, -1)
            length = next((n for n in lengths if text[begin : begin + n] in self._ids), None)
            if length is None:  # a byte that no token spells
                break
            ids.append(self._ids[text[begin : begin + length]])
            begin += length
        return ids


def _try_walk(grammar: Grammar, param: str) -> None:
    """Two tokens: some grammars turn out to be too large only when they are walked."""
    try:
        for _ in range(2):
            if grammar.is_complete:
                return
            places = np.unpackbits(grammar.allowed().view(np.uint8), bitorder="little").nonzero()[0]
            if not len(places):
                raise RuntimeError("no answer has this form")
            grammar.take(int(places[0]))
        if not grammar.is_complete:
            grammar.allowed()
    except RuntimeError as error:
        raise _refusal(str(error), param) from None


def _json_grammar(schema: dict[str, Any]) -> str:
    try:
        # Free white space would let a model go on with it for ever.
        return LLMatcher.grammar_from_json_schema(
            json.dumps(schema), defaults={"whitespace_flexible": False}
        )
    except ValueError as error:
        raise _refusal(str(error), "response_format") from None


def _refusal(reason: str, param: str) -> ApiError:
    lines = reason.strip().splitlines()
    # Of a pattern that is wrong the first line only repeats it.
    why = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    return bad_request(
        f"{param}: this server cannot follow it: {(why or lines[0])[:200]}",
        param=param,
        code=f"invalid_{param}",
    )
