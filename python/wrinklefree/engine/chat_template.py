"""Chat messages as prompt text and as prompt ids.

Templates come with model files and are not trusted: they run in jinja2's sandbox without imports,
within a time and an output limit. Message content is not trusted either: control tokens spelled in
it stay text, and only the template's own become control tokens.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

import jinja2
import jinja2.meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wrinklefree.engine.tokenizer import Tokenizer
from wrinklefree.errors import WrinklefreeError

_MAX_SECONDS = 0.4
_MAX_CHARACTERS = 4_000_000
_GUARDS = "\ue000\ue001\ue002\ue003\uf8ff"  # private-use characters


class TemplateError(WrinklefreeError):
    """A chat template that is broken, refuses the messages, or takes too long."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, without operators that build huge values from short templates."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**" or isinstance(left, str | list) or isinstance(right, str | list):
            raise jinja2.exceptions.SecurityError(f"operator {operator} is not allowed here")
        return super().call_binop(context, operator, left, right)


class _Deadline:
    """Raises TemplateError from inside running template code once its time is over: that of this
    thread, so that a busy machine refuses no template."""

    def __init__(self, seconds: float) -> None:
        self._end = time.thread_time() + seconds

    def trace(self, _frame: FrameType, _event: str, _argument: object) -> Any:
        if time.thread_time() > self._end:
            raise TemplateError(f"the chat template takes longer than {_MAX_SECONDS} s")
        return self.trace


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """The prompt text of `messages` ({"role", "content"}, and what else the template knows) and
    `tools` (OpenAI's form). Raises TemplateError."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = time.strftime
    previous = sys.gettrace()
    try:
        compiled = environment.from_string(template)
        sys.settrace(_Deadline(_MAX_SECONDS).trace)
        pieces = []
        size = 0
        for piece in compiled.generate(
            messages=list(messages),
            **({"tools": list(tools)} if tools else {}),
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        ):
            size += len(piece)
            if size > _MAX_CHARACTERS:
                raise TemplateError(f"the chat template writes over {_MAX_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)
    except WrinklefreeError:
        raise
    except RecursionError as error:
        raise TemplateError("the chat template recurses too deeply") from error
    except Exception as error:  # template code may raise anything
        raise TemplateError(f"chat template: {error}") from error
    finally:
        sys.settrace(previous)


def chat_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
) -> list[int]:
    """Prompt ids of a conversation: those of rendering and then encoding the whole text, except
    that no text of messages and tools yields a control token. Raises TemplateError, also if there
    is no template, or one that would leave the tools out."""
    if tokenizer.chat_template is None:
        raise TemplateError("this model has no chat template; give a prompt instead of messages")
    if tools and not takes_tools(tokenizer.chat_template):
        raise TemplateError("the model's chat template takes no tools")
    special = tokenizer.special_tokens
    spellings = re.compile("|".join(re.escape(s) for s in sorted(special, key=len, reverse=True)))
    guard = _unused_character([*messages, *tools])

    def guarded(value: Any) -> Any:
        """With every spelling of a control token broken by a character that is removed again."""
        if isinstance(value, str):
            return spellings.sub(lambda m: m.group()[0] + guard + m.group()[1:], value)
        if isinstance(value, Mapping):
            return {guarded(key): guarded(item) for key, item in value.items()}
        return [guarded(item) for item in value] if isinstance(value, list | tuple) else value

    text = render(
        tokenizer.chat_template,
        guarded(messages),
        tools=guarded(tools),
        add_generation_prompt=add_generation_prompt,
        bos_token="" if tokenizer.bos_id is None else tokenizer.token(tokenizer.bos_id),
        eos_token=tokenizer.token(tokenizer.eos_ids[0]) if tokenizer.eos_ids else "",
    )
    ids: list[int] = []
    start = 0
    for match in spellings.finditer(text) if special else ():
        ids += _encode_plain(tokenizer, text[start : match.start()], guard)
        ids.append(special[match.group()])
        start = match.end()
    return ids + _encode_plain(tokenizer, text[start:], guard)


def _encode_plain(tokenizer: Tokenizer, text: str, guard: str) -> list[int]:
    text = text.replace(guard, "")
    return tokenizer.encode(text, add_special=False) if text else []


def takes_tools(template: str) -> bool:
    """Whether the template reads `tools`. Raises TemplateError for one that is broken."""
    environment = _Environment(extensions=[loopcontrols])
    try:
        return "tools" in jinja2.meta.find_undeclared_variables(environment.parse(template))
    except jinja2.TemplateError as error:
        raise TemplateError(f"chat template: {error}") from error


def _unused_character(values: Sequence[Mapping[str, Any]]) -> str:
    text = json.dumps([dict(value) for value in values], ensure_ascii=False)
    for character in _GUARDS:
        if character not in text:
            return character
    raise TemplateError("the messages use all private characters this server relies on")


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(f"chat template: {message}")
