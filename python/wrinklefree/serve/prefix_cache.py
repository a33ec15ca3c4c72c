"""Keys and values of prompts that were computed before, for prompts that begin the same.

A slot is kept with the tokens that it has seen. A new prompt takes over the longest beginning that
it shares with any of them: the engine's pages are counted and copied on write, so this costs one
page at most, and the tokens that follow are those of a prompt computed anew (the engine's results
depend on neither batch nor chunk). The least recently used slots are given up first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wrinklefree.engine.prompt_cache import num_shared
from wrinklefree.serve.model import ServedModel

# Shorter beginnings are not worth a page of their own.
MIN_SHARED = 8


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` tokens of what `slot` holds."""

    slot: Any
    length: int


NO_PREFIX = Prefix(None, 0)


@dataclass(slots=True)
class _Entry:
    tokens: list[int]
    slot: Any
    num_bytes: int


@dataclass(slots=True)
class PrefixCache:
    """Slots of finished generations, least recently used first. For the engine thread alone.

    `max_bytes` bounds their keys and values; pages that two slots share count twice.
    """

    model: ServedModel
    max_bytes: int
    num_bytes: int = 0
    _entries: list[_Entry] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, tokens: Sequence[int]) -> Prefix | None:
        """The longest beginning of `tokens` that a slot holds; None below MIN_SHARED."""
        lengths = [num_shared(entry.tokens, tokens) for entry in self._entries]
        best = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        if best is None or lengths[best] < MIN_SHARED:
            return None
        entry = self._entries.pop(best)
        self._entries.append(entry)
        return Prefix(entry.slot, lengths[best])

    def keep(self, tokens: Sequence[int], slot: Any) -> None:
        """Takes over a slot that holds exactly `tokens`; those that it continues are dropped."""
        num_bytes = self.model.slot_bytes(slot)
        if len(tokens) < MIN_SHARED or num_bytes > self.max_bytes:
            return
        if any(num_shared(entry.tokens, tokens) == len(tokens) for entry in self._entries):
            return
        self._entries = [
            entry for entry in self._entries if num_shared(entry.tokens, tokens) < len(entry.tokens)
        ]
        self._entries.append(_Entry(list(tokens), slot, num_bytes))
        self.num_bytes = sum(entry.num_bytes for entry in self._entries)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._entries.pop(0).num_bytes

    def drop(self, slot: Any) -> None:
        """Forgets a slot, if it is here."""
        self._entries = [entry for entry in self._entries if entry.slot is not slot]
        self.num_bytes = sum(entry.num_bytes for entry in self._entries)
