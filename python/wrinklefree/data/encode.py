"""Records to tokens with their targets. Imports no torch and no transformers: workers start fast.

`targets[t]` is the token that follows `tokens[t]` (already shifted), or IGNORE where no loss is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from wrinklefree.data.chat import ChatRenderer, RenderedChat
from wrinklefree.data.records import ChatRecord, PairRecord, Record, SummaryRecord, TextRecord
from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
MAX_WORD = 20  # characters; what is longer is text without spaces, or a link, and may be cut

Int32Array = npt.NDArray[np.int32]
Encodable = TextRecord | PairRecord | SummaryRecord | RenderedChat


@dataclass(frozen=True, slots=True)
class Piece:
    """One document or one prompt with its answer."""

    tokens: Int32Array
    targets: Int32Array
    is_whole: bool  # lies in one row; a text may go on in the next

    def part(self, span: slice) -> Piece:
        """Some of its tokens; the last one's target may lie in the next part."""
        return Piece(self.tokens[span], self.targets[span], self.is_whole)


@dataclass(slots=True)
class Encoded:
    """The pieces of some records, and how many records were too long or had to be cut."""

    pieces: list[Piece] = field(default_factory=list)
    skipped: int = 0
    truncated: int = 0


class Encoder:
    """A tokenizer with the rules of the formats; small enough to be sent to a worker."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise UsageError(
                f"{type(tokenizer).__name__} has no tokenizer.json, which training needs"
            )
        # A copy: files may ask for padding or truncation, which rows must not have.
        self._tokenizer = Tokenizer.from_str(backend.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        end: Any = tokenizer.eos_token_id
        self._end = [end] if isinstance(end, int) else []
        self._max_length = max_length

    def __call__(self, records: Sequence[Encodable]) -> Encoded:
        """The pieces of the records, in order."""
        done = Encoded()
        for kind, group in groupby(records, type):
            alike: Any = list(group)
            if kind is TextRecord:
                self._texts(alike, done)
            elif kind is PairRecord:
                self._pairs(alike, done)
            elif kind is SummaryRecord:
                self._summaries(alike, done)
            else:
                self._chats(alike, done)
        return done

    def _ids(self, texts: list[str], *, special: bool) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=special)
        return [encoding.ids for encoding in encoded]

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self._ids([prompt], special=True)[0]

    def _texts(self, records: list[TextRecord], done: Encoded) -> None:
        # An empty text is no document; with an end token it would teach to end at once.
        texts = [record.text for record in records if record.text]
        for tokens in self._ids(texts, special=True):
            if not tokens:
                continue
            # Some tokenizers add the end token themselves, and some texts spell it.
            if tokens[-1:] != self._end:
                tokens += self._end
            done.pieces.append(_piece(tokens, [*tokens[1:], IGNORE], is_whole=False))

    def _pairs(self, records: list[PairRecord], done: Encoded) -> None:
        prompts = self._ids([record.prompt for record in records], special=True)
        answers = self._ids([record.completion for record in records], special=False)
        for record, prompt, answer in zip(records, prompts, answers, strict=True):
            self._add_pair(prompt, answer + (self._end if record.ends else []), done)

    def _summaries(self, records: list[SummaryRecord], done: Encoded) -> None:
        prompts = self._ids([record.prompt() for record in records], special=True)
        answers = self._ids([record.completion for record in records], special=False)
        for record, prompt, answer in zip(records, prompts, answers, strict=True):
            answer += self._end
            room = self._max_length - len(answer)
            fitted = fit_summary(record, prompt, room, self._prompt_ids)
            done.truncated += fitted is not prompt and len(fitted) <= room
            self._add_pair(fitted, answer, done)

    def _add_pair(self, prompt: list[int], answer: list[int], done: Encoded) -> None:
        # What follows each token; the prompt's own tokens are no labels.
        targets = [*([IGNORE] * len(prompt)), *answer, IGNORE][1:]
        self._add_whole([*prompt, *answer], targets, done)

    def _chats(self, records: list[RenderedChat], done: Encoded) -> None:
        # The template writes every special token itself.
        encodings = self._tokenizer.encode_batch(
            [record.text for record in records], add_special_tokens=False
        )
        for record, encoding in zip(records, encodings, strict=True):
            labels = [
                token if _is_inside(span, record.spans) else IGNORE
                for token, span in zip(encoding.ids, encoding.offsets, strict=True)
            ]
            self._add_whole(encoding.ids, [*labels[1:], IGNORE], done)

    def _add_whole(self, tokens: list[int], targets: list[int], done: Encoded) -> None:
        if len(tokens) > self._max_length:
            done.skipped += 1
        else:
            done.pieces.append(_piece(tokens, targets, is_whole=True))


def fit_summary(
    record: SummaryRecord, prompt: list[int], room: int, encode: Callable[[str], list[int]]
) -> list[int]:
    """`prompt`, the tokens of the record's prompt, with only as much of the article as fits `room`
    tokens; over-long when not even none of it does.

    Whole prompts are tokenized, so that training and evaluation make the same of one text.
    """
    kept = len(record.article)
    while len(prompt) > room and kept > 0:
        kept = min(kept - 1, max(0, kept * room // len(prompt)))
        kept = _end_of_words(record.article, kept)
        prompt = encode(record.prompt(kept))
    return prompt


def _end_of_words(article: str, kept: int) -> int:
    """`kept`, or less so that no word is cut; text without spaces ends at any character."""
    text = article[:kept].rstrip()
    space = text.rfind(" ", max(0, len(text) - MAX_WORD))
    return space if space >= 0 else len(text)


def renderable(
    records: Iterable[Record], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Encodable]:
    """The records with conversations rendered, which needs more than the tokens' table."""
    renderer = ChatRenderer(tokenizer)
    for record in records:
        yield renderer(record) if isinstance(record, ChatRecord) else record


def _is_inside(span: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    start, end = span
    return any(start < last and end > first for first, last in spans)


def _piece(tokens: list[int], targets: list[int], *, is_whole: bool) -> Piece:
    return Piece(np.array(tokens, np.int32), np.array(targets, np.int32), is_whole)
