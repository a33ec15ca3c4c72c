"""From token ids to text that may be shown: whole characters, never a part of a stop string."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from wrinklefree.engine.detokenize import StopMatcher, StreamDecoder
from wrinklefree.serve.model import Token, Tokenizer


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token and where its text begins in the text of the choice, in characters."""

    token: Token
    offset: int


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of a choice, with the tokens that are now completely shown."""

    text: str
    tokens: tuple[PlacedToken, ...]
    is_prompt: bool = False  # an echo, from which offsets are counted anew


class TextStream:
    """The text of one choice. Joined, its deltas are what decoding all at once would give."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._matcher = StopMatcher(stops)
        self._pending: deque[tuple[int, PlacedToken]] = deque()  # (end offset, token)
        self._num_decoded = 0
        self._num_shown = 0

    @property
    def is_stopped(self) -> bool:
        """True once a stop string was found; the text ends before it."""
        return self._matcher.is_stopped

    def push(self, token: Token) -> Delta:
        """Takes the next token; the delta is empty while a character or a stop is incomplete."""
        text = self._decoder.push(token.id)
        placed = PlacedToken(token, self._num_decoded)
        self._num_decoded += len(text)
        # A token that only begins a character is shown when that character is.
        self._pending.append((max(self._num_decoded, placed.offset + 1), placed))
        return self._show(self._matcher.push(text))

    def finish(self) -> Delta:
        """What was held back, when generation ends without a stop string."""
        tail = self._decoder.flush()
        self._num_decoded += len(tail)
        return self._show(self._matcher.push(tail) + self._matcher.flush(), is_last=True)

    def _show(self, text: str, *, is_last: bool = False) -> Delta:
        self._num_shown += len(text)
        tokens = []
        while self._pending:
            end, placed = self._pending[0]
            # The token in which a stop string begins counts as shown if any of its text is.
            is_cut = self.is_stopped and placed.offset < self._num_shown
            is_whole = end <= self._num_shown and not self.is_stopped
            if not (is_whole or is_cut or (is_last and not self.is_stopped)):
                break
            tokens.append(placed)
            self._pending.popleft()
        return Delta(text, tuple(tokens))


def prompt_text(tokenizer: Tokenizer, tokens: Sequence[Token]) -> Delta:
    """The text of a prompt's tokens, without the space that SentencePiece puts in front of it."""
    stream = TextStream(tokenizer, ())
    deltas = [*(stream.push(token) for token in tokens), stream.finish()]
    text = "".join(delta.text for delta in deltas)
    plain = tokenizer.decode([token.id for token in tokens])
    lead = len(text) - len(plain) if text.endswith(plain) else 0
    placed = [
        PlacedToken(place.token, max(0, place.offset - lead))
        for delta in deltas
        for place in delta.tokens
    ]
    return Delta(text[lead:], tuple(placed), is_prompt=True)
