"""How large a value of a chat template would be, asked before it is made.

Each check raises jinja2's SecurityError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import SecurityError

_MAX_VALUE = 16_000_000  # characters of a value on the way there; bytes of a list
_MAX_NUMBER = 100_000  # width or count, as jinja2's own limit of `range`
_MAX_BITS = 4096  # of an integer that is multiplied or divided

TEXTS = (str, bytes, list, tuple)
# Filters and methods that make more of what they get. Numbers they are given are widths or counts.
# The arguments of these types may each be put into every place of the value.
GROWING: dict[str, tuple[type, ...]] = {
    "batch": (),
    "center": (),
    "ljust": (),
    "pprint": (),
    "rjust": (),
    "round": (),
    "slice": (),
    "string": (),
    "to_bytes": (),
    "zfill": (),
    "expandtabs": (int,),
    "indent": (int, *TEXTS),
    "join": TEXTS,
    "replace": TEXTS,
    "tojson": (int, *TEXTS),
    "translate": (dict,),
    "urlize": TEXTS,
    "wordwrap": TEXTS,
}
# A conversion of Python's % operator, with its width and precision.
_CONVERSION = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\*|\d+)?(?:\.(\*|\d+))?")


def size(value: Any) -> int:
    """Characters of the value as text, about. Counted item by item, so that the deadline ends it
    where a list has the same list in it twice, and so on."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(size(key) + size(item) + 8 for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        if set(map(type, value)) == {str}:  # the lines of a text, of which there may be many
            return sum(map(len, value)) + 8 * len(value)
        return sum(size(item) + 8 for item in value)
    return value.bit_length() // 3 if isinstance(value, int) else 32


def own_size(value: Any) -> int:
    """Characters of a text, bytes of a list without those of its items."""
    if isinstance(value, list | tuple):
        return 8 * len(value)
    return len(value) if isinstance(value, str | bytes) else 0


def check_size(size: int) -> None:
    if size > _MAX_VALUE:
        raise SecurityError(f"a value of over {_MAX_VALUE} characters")


def check_numbers(numbers: Iterable[int]) -> None:
    for number in numbers:
        if abs(number) > _MAX_NUMBER:
            raise SecurityError(f"a width or count over {_MAX_NUMBER}")


def check_arithmetic(operator: str, left: float, right: float) -> None:
    """Of integers: those of Python have any length. Sums grow too slowly to matter."""
    if operator == "+" or not isinstance(left, int) or not isinstance(right, int):
        return
    bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length()
    if max(bits, right.bit_length()) > _MAX_BITS:
        raise SecurityError(f"an integer of over {_MAX_BITS} bits")


def check_percent(text: str | bytes, values: Any) -> None:
    """Of `text % values`."""
    if isinstance(text, bytes):
        raise SecurityError("bytes % values is not allowed here")
    found = _CONVERSION.findall(text)
    numbers = [int(number) for pair in found for number in pair if number not in ("", "*")]
    if any("*" in pair for pair in found):  # the values have the widths
        numbers += [v for v in values if isinstance(v, int)] if isinstance(values, tuple) else []
    check_numbers(numbers)
    uses = len(found) if isinstance(values, Mapping) else 1
    check_size(len(text) + sum(map(abs, numbers)) + uses * size(values))


def check_growth(name: str, subject: Any, others: Sequence[Any]) -> None:
    """Of the filter or method `name` of `subject`, given `others`."""
    check_numbers(other for other in others if isinstance(other, int))
    if name == "replace":
        others = others[1:]  # what is taken out makes nothing longer
    each = [
        other if isinstance(other, int) else size(other)
        for other in others
        if isinstance(other, GROWING[name])
    ]
    check_size((size(subject) + 1) * (max(each, default=0) + 1))
