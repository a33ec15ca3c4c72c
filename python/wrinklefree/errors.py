"""The errors a user can cause. Each says what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WrinklefreeError(Exception):
    """Base of all errors that are shown as one line; `exit_code` is that of the command line."""

    exit_code = 1


class UsageError(WrinklefreeError):
    """A wrong option, path or configuration key."""

    exit_code = 2


class FormatError(WrinklefreeError):
    """A model or data file that is damaged, unsupported or not what it says it is."""


class VerificationError(WrinklefreeError):
    """A written file does not say what its source says."""

    exit_code = 3


def nearest(name: str, choices: Iterable[str]) -> str:
    """Suggestion to append to an error: "; did you mean 'x'?" or "" when nothing is close."""
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
