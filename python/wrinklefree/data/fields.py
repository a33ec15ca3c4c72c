"""Fields of a row, which may be any JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wrinklefree.errors import FormatError


def string_field(row: Mapping[str, Any], key: str, where: str) -> str:
    """The string `row[key]`. Raises FormatError, beginning with `where`, when it is none."""
    if key not in row:
        found = ", ".join(sorted(row)) or "nothing"
        raise FormatError(f'{where}: needs a string "{key}"; it has {found}')
    value = row[key]
    if value is None:
        raise FormatError(f'{where}: "{key}" is null; fill it, or leave the record out')
    if not isinstance(value, str):
        raise FormatError(f'{where}: "{key}" must be a string, not {type(value).__name__}')
    return value
