"""How deltas become the bodies of the two generation endpoints, whole or chunk by chunk."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel

from wrinklefree.serve import responses as r
from wrinklefree.serve.model import Token, Tokenizer
from wrinklefree.serve.streaming import Delta, PlacedToken, prompt_text
from wrinklefree.serve.tool_calls import Call, CallParser, Parsed

# JSON has no infinity; OpenAI's API uses this for impossible tokens too.
LOWEST_LOGPROB = -9999.0


class Reply(ABC):
    """Writes one answer; every body of it carries the same id and time."""

    id_prefix: str

    def __init__(self, model_name: str, tokenizer: Tokenizer, alternatives: int | None) -> None:
        self._tokenizer = tokenizer
        self._alternatives = alternatives
        self._head: dict[str, Any] = {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model_name,
        }

    def opening(self, index: int) -> BaseModel | None:
        """The chunk that comes before the first text of a choice, if the endpoint has one."""
        return None

    @abstractmethod
    def chunks(self, index: int, delta: Delta) -> list[BaseModel]: ...

    @abstractmethod
    def closing(self, index: int, reason: str, extras: dict[str, Any]) -> list[BaseModel]:
        """The last chunks of a choice."""

    @abstractmethod
    def usage_chunk(self, usage: r.Usage) -> BaseModel:
        """The chunk without choices that ends a stream with include_usage."""

    @abstractmethod
    def whole(self, choices: Sequence[tuple[Delta, str]], extras: dict[str, Any]) -> BaseModel:
        """The answer without streaming, from the (text, finish reason) of every choice."""

    def echo(self, tokens: Sequence[Token]) -> Delta:
        """The prompt as the beginning of the answer."""
        return prompt_text(self._tokenizer, tokens)

    def _scored(self, token_id: int, logprob: float | None) -> dict[str, Any]:
        raw = self._tokenizer.token_bytes(token_id)
        return {
            "token": _shown(raw),
            "logprob": _finite(logprob),
            "bytes": list(raw),
        }


class ChatReply(Reply):
    id_prefix = "chatcmpl"

    def __init__(
        self,
        model_name: str,
        tokenizer: Tokenizer,
        alternatives: int | None,
        tool_names: Collection[str] = (),
    ) -> None:
        super().__init__(model_name, tokenizer, alternatives)
        self._tool_names = tool_names
        self._parsers: defaultdict[int, CallParser] = defaultdict(lambda: CallParser(tool_names))

    def opening(self, index: int) -> BaseModel:
        delta = r.ChatDelta(role="assistant", content="")
        choice = r.ChatChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None)
        return self._chunk([choice])

    def chunks(self, index: int, delta: Delta) -> list[BaseModel]:
        if self._tool_names:
            return self._parsed_chunks(index, self._parsers[index].push(delta.text))
        return [self._content(index, delta.text, self._logprobs(delta.tokens))]

    def closing(self, index: int, reason: str, extras: dict[str, Any]) -> list[BaseModel]:
        chunks = []
        if self._tool_names:
            parser = self._parsers[index]
            chunks = self._parsed_chunks(index, parser.finish())
            reason = _reason(reason, parser)
        choice = r.ChatChunkChoice(
            index=index, delta=r.ChatDelta(), logprobs=None, finish_reason=reason
        )
        return [*chunks, self._chunk([choice], **extras)]

    def _parsed_chunks(self, index: int, parsed: Parsed) -> list[BaseModel]:
        chunks = [self._content(index, parsed.text, None)] if parsed.text else []
        first = self._parsers[index].num_calls - len(parsed.calls)
        for number, call in enumerate(parsed.calls, first):
            delta = r.ChatDelta(tool_calls=[r.ToolCallDelta(index=number, **_call_fields(call))])
            choice = r.ChatChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None)
            chunks.append(self._chunk([choice]))
        return chunks

    def _content(self, index: int, text: str, logprobs: r.ChatLogprobs | None) -> BaseModel:
        delta = r.ChatDelta(content=text)
        choice = r.ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None)
        return self._chunk([choice])

    def usage_chunk(self, usage: r.Usage) -> BaseModel:
        return self._chunk([], usage=usage)

    def whole(self, choices: Sequence[tuple[Delta, str]], extras: dict[str, Any]) -> BaseModel:
        return r.ChatCompletion(
            object="chat.completion",
            choices=[
                self._choice(index, delta, reason) for index, (delta, reason) in enumerate(choices)
            ],
            **self._head,
            **extras,
        )

    def _choice(self, index: int, delta: Delta, reason: str) -> r.ChatChoice:
        message = r.ChatMessage(role="assistant", content=delta.text)
        if self._tool_names:
            parser = CallParser(self._tool_names)
            parsed = parser.push(delta.text) + parser.finish()
            reason = _reason(reason, parser)
            message = r.ChatMessage(role="assistant", content=parsed.text)
            if parsed.calls:
                calls = [r.ToolCall(**_call_fields(call)) for call in parsed.calls]
                content = parsed.text or None
                message = r.ChatMessage(role="assistant", content=content, tool_calls=calls)
        return r.ChatChoice(
            index=index,
            message=message,
            logprobs=self._logprobs(delta.tokens),
            finish_reason=reason,
        )

    def _chunk(self, choices: list[r.ChatChunkChoice], **extras: Any) -> BaseModel:
        return r.ChatChunk(object="chat.completion.chunk", choices=choices, **self._head, **extras)

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> r.ChatLogprobs | None:
        if self._alternatives is None:
            return None
        content = [
            r.PlacedLogprob(
                **self._scored(placed.token.id, placed.token.logprob),
                top_logprobs=[
                    r.TokenLogprob(**self._scored(*scored)) for scored in placed.token.top
                ],
            )
            for placed in tokens
        ]
        return r.ChatLogprobs(content=content)


class TextReply(Reply):
    id_prefix = "cmpl"

    def chunks(self, index: int, delta: Delta) -> list[BaseModel]:
        return [self._body([self._choice(index, delta, None)])]

    def closing(self, index: int, reason: str, extras: dict[str, Any]) -> list[BaseModel]:
        choice = r.TextChoice(index=index, text="", logprobs=None, finish_reason=reason)
        return [self._body([choice], **extras)]

    def usage_chunk(self, usage: r.Usage) -> BaseModel:
        return self._body([], usage=usage)

    def whole(self, choices: Sequence[tuple[Delta, str]], extras: dict[str, Any]) -> BaseModel:
        texts = [self._choice(i, delta, reason) for i, (delta, reason) in enumerate(choices)]
        return self._body(texts, **extras)

    def _choice(self, index: int, delta: Delta, reason: str | None) -> r.TextChoice:
        logprobs = self._logprobs(delta.tokens)
        return r.TextChoice(index=index, text=delta.text, logprobs=logprobs, finish_reason=reason)

    def _body(self, choices: list[r.TextChoice], **extras: Any) -> BaseModel:
        return r.TextCompletion(object="text_completion", choices=choices, **self._head, **extras)

    def _logprobs(self, tokens: Sequence[PlacedToken]) -> r.TextLogprobs | None:
        if self._alternatives is None:
            return None
        return r.TextLogprobs(
            tokens=[_shown(self._tokenizer.token_bytes(placed.token.id)) for placed in tokens],
            token_logprobs=[_finite(placed.token.logprob) for placed in tokens],
            top_logprobs=[self._top(placed.token) for placed in tokens]
            if self._alternatives
            else None,
            text_offset=[placed.offset for placed in tokens],
        )

    def _top(self, token: Token) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        scored = [self._scored(*pair) for pair in token.top]
        return {item["token"]: item["logprob"] for item in scored}


def _reason(reason: str, parser: CallParser) -> str:
    """Why a choice with tools ended: an answer that ends with calls waits for their results."""
    return "tool_calls" if reason == "stop" and parser.num_calls else reason


def _call_fields(call: Call) -> dict[str, Any]:
    function = r.CalledFunction(name=call.name, arguments=call.arguments)
    return {"id": call.id, "type": "function", "function": function}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST_LOGPROB)


def _shown(raw: bytes) -> str:
    """The text of a token; one that is no text alone is spelled as OpenAI does: "bytes:\\xe2"."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
