"""Choices and perplexity on a scripted backend, whose numbers can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.backend import Question
from wrinklefree.eval.likelihood import run_choices
from wrinklefree.eval.perplexity import run_perplexity
from wrinklefree.eval.tasks import ChoiceRecord

BOS = 0


class Scripted:
    """One token per byte; every token has log-probability -id / 100, whatever came before."""

    name = "scripted"
    max_context = 64

    def __init__(self, *, adds_bos: bool = False) -> None:
        self.adds_bos = adds_bos
        self.seen: list[list[int]] = []
        self.asked: list[Question] = []

    @property
    def bos_id(self) -> int | None:
        return BOS

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [BOS] * (add_special and self.adds_bos) + list(text.encode())

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        self.asked += questions
        return [[-sum(choice) / 100 for choice in question.choices] for question in questions]

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        self.seen.append(list(ids))
        return -np.array(ids[1:]) / 100


def test_summed_likelihood_wins_and_ties_go_to_the_first() -> None:
    records = [
        ChoiceRecord("p", (" b", " a"), 1),  # 'a' < 'b': the second is likelier
        ChoiceRecord("p", (" aa", " b"), 1),  # sums, not means: two tokens cost more
        ChoiceRecord("p", (" a", " a"), 0),
    ]
    result = run_choices(Scripted(), records, context=64)
    assert result.predictions == [1, 1, 0]
    assert result.correct(records) == 3
    assert result.scores[0] == pytest.approx([-(32 + 98) / 100, -(32 + 97) / 100])


def test_permuting_choices_and_labels_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    records, permuted = [], []
    for number in range(40):
        words = tuple(f" {chr(97 + c)}" for c in rng.permutation(20)[:3])
        label = int(rng.integers(3))
        records.append(ChoiceRecord(f"q{number}", words, label))
        order = rng.permutation(3)
        permuted.append(
            ChoiceRecord(
                f"q{number}", tuple(words[i] for i in order), int(np.flatnonzero(order == label)[0])
            )
        )
    first = run_choices(Scripted(), records, context=64).correct(records)
    assert run_choices(Scripted(), permuted, context=64).correct(permuted) == first


def test_long_prompts_lose_their_front_but_not_the_begin_token() -> None:
    backend = Scripted(adds_bos=True)
    records = [ChoiceRecord("0123456789", (" x", " yy"), 0), ChoiceRecord("01", (" x", " y"), 0)]
    result = run_choices(backend, records, context=8)
    assert backend.asked[0].prompt == [BOS, *b"6789"]
    assert len(backend.asked[0].prompt) + 3 == 8
    assert (result.inputs.truncated, result.inputs.with_bos) == (1, 2)


def test_impossible_records_are_named() -> None:
    with pytest.raises(UsageError, match="record 1: a choice alone"):
        run_choices(Scripted(), [ChoiceRecord("p", (" long choice", " x"), 0)], context=8)
    with pytest.raises(UsageError, match="record 1: an empty prompt"):
        run_choices(Scripted(), [ChoiceRecord("", (" x", " y"), 0)], context=8)


def test_perplexity_by_hand() -> None:
    result = run_perplexity(Scripted(), ["ddddd"], context=3)
    # Windows "ddd" and "dd": 2 + 1 scored tokens of 1 nat each ('d' is 100).
    assert (result.scored_tokens, result.windows) == (3, 2)
    assert result.perplexity == pytest.approx(math.e)
    assert result.bits_per_byte == pytest.approx(1 / math.log(2))


def test_each_window_begins_with_the_begin_token() -> None:
    backend = Scripted(adds_bos=True)
    result = run_perplexity(backend, ["abcd", "e"], context=3)
    assert backend.seen == [[BOS, *b"ab"], [BOS, *b"cd"], [BOS, *b"e"]]
    assert (result.scored_tokens, result.with_bos) == (5, 3)


def test_limit_counts_windows() -> None:
    assert run_perplexity(Scripted(), ["a" * 30], context=10, limit=2).windows == 2


def test_nan_is_an_error_and_not_a_result() -> None:
    class Broken(Scripted):
        def logprobs(self, ids: Sequence[int]) -> np.ndarray:
            return np.full(len(ids) - 1, np.nan)

    with pytest.raises(FormatError, match="NaN"):
        run_perplexity(Broken(), ["abc"], context=3)


def test_a_single_token_has_no_perplexity() -> None:
    with pytest.raises(UsageError, match="two tokens"):
        run_perplexity(Scripted(), ["a"], context=3)
