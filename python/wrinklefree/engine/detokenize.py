"""Text from a stream of tokens: whole characters only, and stop strings across tokens."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol


class _Vocabulary(Protocol):
    def token_bytes(self, token_id: int) -> bytes: ...
    def is_special(self, token_id: int) -> bool: ...


class StreamDecoder:
    """Decodes token by token. A character whose bytes are in several tokens comes out with the last
    of them; bytes that are no UTF-8 become U+FFFD. Special tokens give no text."""

    def __init__(self, tokenizer: _Vocabulary) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        if self._tokenizer.is_special(token_id):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """The rest at the end: U+FFFD if the last character was cut, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Ends a text before the first stop string, however the text is cut into pieces.

    Text that may be the beginning of a stop string is held back until that is decided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Takes more text and returns what may be shown; nothing after a stop string."""
        if self.is_stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            # The stop that is complete first counts (the longest, if several are), because that
            # is the one found when the same text comes in smaller pieces.
            self.is_stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What is still held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that is a proper beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops if len(stop) > length):
                return length
        return 0
