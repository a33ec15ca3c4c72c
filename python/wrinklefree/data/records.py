"""What one row of a source says, by `format`.

text `{"text"}`, sft `{"prompt", "completion"}`, choice `{"prompt", "choices", "label"}`, chat
`{"messages": [{"role", "content"}, ...]}`, summary `{"article", "highlights"}`, and the GLUE tasks
by name, with the columns of data/glue.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wrinklefree.configs.config import SourceConfig
from wrinklefree.data.fields import string_field
from wrinklefree.data.glue import GLUE, glue_example
from wrinklefree.errors import FormatError

SUMMARY_START, SUMMARY_END = "Article: ", "\nSummary:"


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A document to continue-pretrain on."""

    text: str


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A prompt (no loss) and what the model must answer."""

    prompt: str
    completion: str
    ends: bool  # whether an end-of-sequence token follows the completion


@dataclass(frozen=True, slots=True)
class ChoiceRecord:
    """A prompt, its possible continuations (each with its own leading space), the right one."""

    prompt: str
    choices: tuple[str, ...]
    label: int

    @property
    def answer(self) -> str:
        return self.choices[self.label]


@dataclass(frozen=True, slots=True)
class SummaryRecord:
    """An article, which may be cut to fit, and its summary, which may not."""

    article: str
    completion: str

    def prompt(self, num_characters: int | None = None) -> str:
        """The prompt of the article or of its first characters."""
        return summary_prompt(self.article[:num_characters])


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """A conversation of (role, content); loss is on the assistant's turns."""

    messages: tuple[tuple[str, str], ...]
    where: str  # for errors that only rendering finds


Record = TextRecord | PairRecord | SummaryRecord | ChatRecord


def summary_prompt(article: str) -> str:
    """What a model is given to summarise an article; the answer begins with a space."""
    return f"{SUMMARY_START}{article.strip()}{SUMMARY_END}"


def parse(row: Mapping[str, Any], source: SourceConfig, where: str) -> Record:
    """The record of one row. Raises FormatError, beginning with `where`, for any other row."""
    if source.format == "text":
        return TextRecord(string_field(row, source.text_field, where))
    if source.format == "sft":
        prompt = string_field(row, "prompt", where)
        return PairRecord(prompt, string_field(row, "completion", where), ends=True)
    if source.format == "summary":
        highlights = string_field(row, "highlights", where).strip()
        return SummaryRecord(string_field(row, "article", where), f" {highlights}")
    if source.format == "chat":
        return _conversation(row, where)
    record = choice_record(row, source.format, where)
    # NOTE: no end token after a choice: evaluation scores the choice's own tokens only.
    return PairRecord(record.prompt, record.answer, ends=False)


def choice_record(row: Mapping[str, Any], format: str, where: str) -> ChoiceRecord:
    """A row of the format `choice` or of a GLUE task with all its choices, for evaluation.

    Raises FormatError, beginning with `where`, for any other row.
    """
    if format == "choice":
        return ChoiceRecord(*_choice(row, where))
    return ChoiceRecord(*glue_example(GLUE[format], row, where))


def _choice(row: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...], int]:
    prompt = string_field(row, "prompt", where)
    choices, label = row.get("choices"), row.get("label")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice for choice in choices)
    ):
        raise FormatError(f'{where}: "choices" must be a list of at least two non-empty strings')
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(choices):
        raise FormatError(f'{where}: "label" must be an index into its {len(choices)} choices')
    return prompt, tuple(choices), label


def _conversation(row: Mapping[str, Any], where: str) -> ChatRecord:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise FormatError(f'{where}: "messages" must be a list of {{"role", "content"}}')
    turns = []
    for number, message in enumerate(messages):
        place = f"{where}, message {number + 1}"
        if not isinstance(message, dict):
            raise FormatError(f'{place}: expected {{"role", "content"}}')
        turns.append(
            (string_field(message, "role", place), string_field(message, "content", place))
        )
    answers = [content for role, content in turns if role == "assistant"]
    if not answers or not all(content.strip() for content in answers):
        raise FormatError(f'{where}: needs a turn of role "assistant", and none of them empty')
    return ChatRecord(tuple(turns), where)
