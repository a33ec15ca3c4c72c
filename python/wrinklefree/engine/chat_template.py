"""Chat messages as prompt ids.

Message content is not trusted: control tokens spelled in it stay text, and only the template's own
become control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wrinklefree.engine.template_sandbox import TemplateError, render, takes_tools
from wrinklefree.engine.tokenizer import Tokenizer

_GUARDS = "\ue000\ue001\ue002\ue003\uf8ff"  # private-use characters
_NOTHING = "(?!)"  # a pattern that matches nowhere


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
    longest_first = sorted(special, key=len, reverse=True)
    spellings = re.compile("|".join(map(re.escape, longest_first)) or _NOTHING)
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

    def add_text(end: int, *, strips: bool = False) -> None:
        part = text[start:end].replace(guard, "")
        part = part.rstrip() if strips else part
        if part and start == 0:
            ids.extend(tokenizer.encode(part, add_special=False))
        elif part:
            ids.extend(tokenizer.encode_after_control_token(part))

    for match in spellings.finditer(text):
        token = special[match.group()]
        strips_before, strips_after = tokenizer.strips(token)
        add_text(match.start(), strips=strips_before)
        ids.append(token)
        start = match.end()
        while strips_after and text[start : start + 1].isspace():
            start += 1
    add_text(len(text))
    return ids


def _unused_character(values: Sequence[Mapping[str, Any]]) -> str:
    text = json.dumps([dict(value) for value in values], ensure_ascii=False)
    for character in _GUARDS:
        if character not in text:
            return character
    raise TemplateError("the messages use all private characters this server relies on")
