"""Conversations as text by the tokenizer's own chat template, with the assistant's spans.

A template is free to do anything, so nothing about it is assumed: it renders the conversation
twice, once with marks in place of the answers, and what lies between the marks is its own text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wrinklefree.data.records import ChatRecord
from wrinklefree.errors import FormatError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\uf8ff"  # a private character: templates have no opinion on it


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """The text of a conversation, and the character spans that the model must answer."""

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatRenderer:
    """The chat template of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, record: ChatRecord) -> RenderedChat:
        """Raises UsageError without a template, FormatError when it cannot render the record or
        when a message spells a special token."""
        turns = record.messages
        self._check_contents(record)
        mark = MARK
        while any(mark in content for _, content in turns):
            mark += MARK
        answers = [content for role, content in turns if role == "assistant"]
        marked = [(role, mark if role == "assistant" else content) for role, content in turns]
        pieces = self._render(marked, record.where).split(mark)
        text = self._render(turns, record.where)
        if len(pieces) != len(answers) + 1:
            raise FormatError(f"{record.where}: the chat template drops or repeats an answer")
        spans = []
        # Where the answer begins; when the template changes an answer, the text is lost track of.
        start = len(pieces[0]) if text.startswith(pieces[0]) else len(text)
        for answer, following in zip(answers, pieces[1:], strict=True):
            # Templates give an answer as it is or without the white space around it. What follows
            # decides: an answer's last space looks like one that the template writes itself.
            candidates = (answer, answer.strip())
            given = next((a for a in candidates if text.startswith(a + following, start)), None)
            if given is None:
                raise FormatError(f"{record.where}: the chat template changes an answer")
            end = start + len(given)
            # The model must also learn to end its turn.
            closing = self._special.match(following) if self._special is not None else None
            spans.append((start, end + (closing.end() if closing is not None else 0)))
            start = end + len(following)
        if start != len(text):
            raise FormatError(f"{record.where}: the chat template changes an answer")
        return RenderedChat(text, tuple(spans))

    @cached_property
    def _specials(self) -> list[str]:
        added = self._tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special}
        return sorted(names | set(self._tokenizer.all_special_tokens), key=len, reverse=True)

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        if not self._specials:
            return None
        return re.compile(rf"\s*(?:{'|'.join(map(re.escape, self._specials))})")

    def _check_contents(self, record: ChatRecord) -> None:
        for number, (_, content) in enumerate(record.messages, 1):
            found = next((token for token in self._specials if token in content), None)
            if found is not None:
                raise FormatError(
                    f"{record.where}, message {number}: its text spells the special token {found}, "
                    "which would end a turn or begin one; remove it from the data"
                )

    def _render(self, turns: Any, where: str) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise UsageError(
                "the tokenizer has no chat template, which data.format=chat needs; use the "
                "tokenizer of an instruct model, or data.format=sft"
            )
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FormatError(f"{where}: the chat template refuses it: {reason}") from None
        assert isinstance(text, str)
        return text
