"""Streamed text: whole characters, and stop strings however tokens cut the text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrinklefree.engine.detokenize import StopMatcher, StreamDecoder


class ScriptedVocabulary:
    """Token i has the bytes of piece i; the last token is special."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def token_bytes(self, token_id: int) -> bytes:
        return self._pieces[token_id] if token_id < len(self._pieces) else b"<end>"

    def is_special(self, token_id: int) -> bool:
        return token_id == len(self._pieces)


def deltas(pieces: Sequence[bytes]) -> list[str]:
    decoder = StreamDecoder(ScriptedVocabulary(pieces))
    return [decoder.push(i) for i in range(len(pieces))] + [decoder.flush()]


@pytest.mark.parametrize("num_cuts", [0, 1, 2, 3])
def test_every_split_of_characters_streams_the_same_text(num_cuts: int) -> None:
    text = "👩‍🚀й語"
    data = text.encode()
    for cuts in itertools.combinations(range(1, len(data)), num_cuts):
        bounds = [0, *cuts, len(data)]
        streamed = deltas([data[a:b] for a, b in itertools.pairwise(bounds)])
        assert "".join(streamed) == text
        assert all("\ufffd" not in delta for delta in streamed)


def test_a_character_cut_by_the_end_is_replaced_once() -> None:
    assert deltas(["語".encode()[:2]]) == ["", "\ufffd"]


def test_bytes_that_are_no_text_do_not_hold_back_what_follows() -> None:
    assert "".join(deltas([b"a\xff", b"b"])) == "a\ufffdb"


def test_special_tokens_have_no_text() -> None:
    decoder = StreamDecoder(ScriptedVocabulary([b"a"]))
    assert decoder.push(0) + decoder.push(1) + decoder.flush() == "a"


def test_stop_string_over_three_tokens() -> None:
    matcher = StopMatcher(["END"])
    assert [matcher.push(text) for text in ("a E", "N", "D b")] == ["a ", "", ""]
    assert matcher.is_stopped


def test_a_beginning_that_does_not_become_the_stop_is_delivered() -> None:
    matcher = StopMatcher(["END"])
    shown = [matcher.push(text) for text in ("E", "NX")] + [matcher.flush()]
    assert "".join(shown) == "ENX"
    assert not matcher.is_stopped


def test_empty_stop_strings_stop_nothing() -> None:
    matcher = StopMatcher(["", ""])
    assert matcher.push("abc") == "abc"
    assert not matcher.is_stopped


@given(
    pieces=st.lists(st.text(alphabet="ab", max_size=4), max_size=8),
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
)
def test_any_cut_of_a_text_ends_where_the_whole_text_does(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push(piece) for piece in pieces)
    if not matcher.is_stopped:
        shown += matcher.flush()
    # Reference: the stop whose end comes first in the text decides; then the one that begins first.
    text = "".join(pieces)
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert matcher.is_stopped == bool(found)
    if not found:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        assert len(shown) in {begin for _, begin in found}
