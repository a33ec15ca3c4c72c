"""Text of one choice: every cut into tokens and every set of stops gives the reference text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree.serve.model import Token
from wrinklefree.serve.streaming import PlacedToken, TextStream

EMOJI = "👩‍🚀й語"


def run(
    tokenizer: Any, ids: Sequence[int], stops: Sequence[str]
) -> tuple[list[str], list[PlacedToken], bool]:
    """Deltas, shown tokens and whether a stop ended it, as the engine thread drives a stream."""
    stream = TextStream(tokenizer, stops)
    texts: list[str] = []
    tokens: list[PlacedToken] = []
    deltas = []
    for token_id in ids:
        deltas.append(stream.push(Token(token_id, -1.0)))
        if stream.is_stopped:
            break
    deltas.append(stream.finish())
    for delta in deltas:
        texts.append(delta.text)
        tokens.extend(delta.tokens)
    return texts, tokens, stream.is_stopped


def reference(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Reads character by character; the first stop that is complete ends the text before it."""
    for end in range(len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], True
    return text, False


@pytest.mark.parametrize("num_cuts", [0, 1, 2, 3])
def test_every_split_of_multibyte_characters_gives_the_same_text(
    scripted: Any, num_cuts: int
) -> None:
    raw = EMOJI.encode()
    for cuts in combinations(range(1, len(raw)), num_cuts):
        edges = [0, *cuts, len(raw)]
        words = [raw[a:b] for a, b in pairwise(edges)]
        tokenizer = scripted(words).tokenizer
        ids = [tokenizer.vocab_size - len(words) + i for i in range(len(words))]
        texts, tokens, _ = run(tokenizer, ids, [])
        assert "".join(texts) == EMOJI
        assert not any("�" in text for text in texts)
        assert [placed.token.id for placed in tokens] == ids, "each token is reported once"


def test_bytes_one_by_one_show_whole_characters_only(scripted: Any) -> None:
    texts, _, _ = run(scripted().tokenizer, list(EMOJI.encode()), [])
    assert [text for text in texts if text] == list(EMOJI)


@pytest.mark.parametrize(
    ("words", "stops", "shown", "is_stopped"),
    [
        (["a E", "N", "D b"], ["END"], "a ", True),
        (["E", "NX"], ["END"], "ENX", False),
        (["E", "N"], ["END"], "EN", False),
        (["END"], ["END"], "", True),
        (["abcdef"], ["bcde", "cd"], "ab", True),  # "cd" is complete first
        (["ab", "cd", "ef"], ["bcde", "cd"], "ab", True),
        (["aa", "ab"], ["aab"], "a", True),
        (["x語", "y"], ["語y"], "x", True),
    ],
)
def test_stop_strings(
    scripted: Any, words: list[str], stops: list[str], shown: str, is_stopped: bool
) -> None:
    tokenizer = scripted([word.encode() for word in words]).tokenizer
    ids = [tokenizer.vocab_size - len(words) + i for i in range(len(words))]
    texts, _, stopped = run(tokenizer, ids, stops)
    assert ("".join(texts), stopped) == (shown, is_stopped)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_cut_and_any_stops_equal_the_reference(scripted: Any, data: st.DataObject) -> None:
    # Few letters, so that stops and their prefixes are frequent.
    text = data.draw(st.text("abé語", max_size=24))
    stops = data.draw(st.lists(st.text("abé語", min_size=1, max_size=4), max_size=4))
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=8)))
    edges = [0, *[cut for cut in cuts if cut < len(raw)], len(raw)]
    words = [raw[a:b] for a, b in pairwise(edges) if a < b]
    tokenizer = scripted(words).tokenizer
    ids = [tokenizer.vocab_size - len(words) + i for i in range(len(words))]

    texts, tokens, stopped = run(tokenizer, ids, stops)

    assert ("".join(texts), stopped) == reference(text, stops)
    shown = "".join(texts)
    assert [placed.offset for placed in tokens] == sorted(placed.offset for placed in tokens)
    assert all(placed.offset < len(shown) or not stopped for placed in tokens)


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=24), stop=st.text("ab", min_size=1, max_size=2))
def test_any_bytes_give_valid_text(scripted: Any, raw: bytes, stop: str) -> None:
    texts, _, stopped = run(scripted().tokenizer, list(raw), [stop])
    expected = reference(raw.decode(errors="replace"), [stop])
    assert ("".join(texts), stopped) == expected
    "".join(texts).encode()  # no lone surrogate


def test_a_silent_stream_is_kept_alive(scripted: Any, serve: Any) -> None:
    server = serve(scripted([b"a", b"b"], delay_s=0.3), keep_alive_s=0.05)
    answer = server.chat(stream=True)
    lines = [line for line in answer.text.splitlines() if line]
    assert lines.count(": keep-alive") >= 3
    data = [line for line in lines if line.startswith("data: ")]
    assert len(lines) == len(data) + lines.count(": keep-alive")
    assert data[-1] == "data: [DONE]"
    stream = server.client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(texts) == "ab"


def test_a_stream_that_talks_needs_no_comments(scripted: Any, serve: Any) -> None:
    assert ": keep-alive" not in serve(scripted([b"a", b"b"])).chat(stream=True).text
