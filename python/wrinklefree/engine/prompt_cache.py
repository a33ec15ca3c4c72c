"""Keys and values of one text, kept for a text that begins the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wrinklefree import _engine

_STRIDE = 64  # tokens compared at once


@dataclass(slots=True)
class PromptCache:
    """A sequence of the engine and the tokens in it."""

    sequence: _engine.Sequence
    tokens: list[int] = field(default_factory=list)

    def begin(self, prompt: Sequence[int]) -> int:
        """Keeps what `prompt` begins with, except its last token: that one has to be computed for
        the token after it. Returns how many tokens are kept."""
        kept = num_shared(self.tokens, prompt[:-1])
        self.sequence.truncate(kept)
        del self.tokens[kept:]
        return kept


def num_shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both lists begin with."""
    limit, done = min(len(a), len(b)), 0
    while done < limit and a[done : done + _STRIDE] == b[done : done + _STRIDE]:
        done += _STRIDE
    while done < limit and a[done] == b[done]:
        done += 1
    return min(done, limit)
