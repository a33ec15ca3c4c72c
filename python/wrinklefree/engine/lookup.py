"""Prompt lookup: guesses of the next tokens, copied from the text so far.

Summaries, edits and code repeat their input. What followed the last tokens where they stood before
is a good guess of what follows now, and costs no second model (Saxena 2023, "Prompt Lookup
Decoding").
"""

from __future__ import annotations

from collections.abc import Sequence

_SIZES = (3, 2)  # n-grams looked up, the longest first


class PromptLookup:
    """At most `longest` guesses at a time; fewer while guesses are wrong."""

    def __init__(self, prompt: Sequence[int], longest: int) -> None:
        self._longest = longest
        self._limit = longest
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}  # n-gram: where its last follower stands
        self.extend(prompt)

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            end = len(self._tokens)
            for size in _SIZES:
                if end >= size:
                    self._followers[tuple(self._tokens[end - size :])] = end
            self._tokens.append(token)

    def guess(self, room: int) -> list[int]:
        """What may follow, at most `room` tokens; empty when the last tokens are new."""
        for size in _SIZES:
            follower = self._followers.get(tuple(self._tokens[-size:]))
            if follower is not None:
                known = self._tokens[follower : follower + self._limit]
                # Text that repeats itself goes on with its own guesses.
                while len(known) < self._limit:
                    known += known[: self._limit - len(known)]
                return known[:room]
        return []

    def learn(self, offered: int, right: int) -> None:
        """How many of the guesses of a step were right."""
        if right == offered:
            self._limit = min(2 * self._limit, self._longest)
        else:
            self._limit = max(right, self._limit // 2, 1)
