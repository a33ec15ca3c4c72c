"""Calls of tools in an answer, as Qwen and Hermes models write them.

<tool_call>
{"name": "...", "arguments": {...}}
</tool_call>

Text around calls stays text; so does a call that is no JSON or names no tool of the request.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What became of a piece of text: shown text, then calls."""

    text: str = ""
    calls: tuple[Call, ...] = ()

    def __add__(self, other: Parsed) -> Parsed:
        return Parsed(self.text + other.text, self.calls + other.calls)


class CallParser:
    """Takes the text of a choice in pieces; what it gives does not depend on how it was cut.

    White space between calls and after them is dropped.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._held = ""
        self._is_inside = False
        self._is_behind_call = False  # nothing but white space since
        self.num_calls = 0

    def push(self, text: str) -> Parsed:
        self._held += text
        done = Parsed()
        while True:
            before, mark, rest = self._held.partition(CLOSE if self._is_inside else OPEN)
            if not mark:
                return done if self._is_inside else done + Parsed(self._decided())
            done += self._call(before) if self._is_inside else Parsed(self._shown(before))
            self._held, self._is_inside = rest, not self._is_inside

    def finish(self) -> Parsed:
        """The end of the text; a call that was not closed is text."""
        held, self._held = self._held, ""
        return Parsed(OPEN + held if self._is_inside else self._shown(held))

    def _decided(self) -> str:
        """Takes from the held text what no call can begin in."""
        lengths = range(min(len(OPEN) - 1, len(self._held)), 0, -1)
        keep = next((n for n in lengths if OPEN.startswith(self._held[-n:])), 0)
        cut = len(self._held) - keep
        text = self._shown(self._held[:cut])
        if text:
            self._held = self._held[cut:]
        return text

    def _shown(self, text: str) -> str:
        if self._is_behind_call and not text.strip():
            return ""
        self._is_behind_call = False
        return text

    def _call(self, body: str) -> Parsed:
        try:
            call = json.loads(body)
            name, arguments = call["name"], call.get("arguments", {})
            is_call = name in self._names and isinstance(arguments, dict)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            is_call = False
        if not is_call:
            self._is_behind_call = False
            return Parsed(f"{OPEN}{body}{CLOSE}")
        self.num_calls += 1
        self._is_behind_call = True
        return Parsed(calls=(Call(name, json.dumps(arguments, ensure_ascii=False)),))
