"""Choice tasks on a scripted backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from wrinklefree.data.records import ChoiceRecord
from wrinklefree.engine.results import Score
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.backend import Question
from wrinklefree.eval.choices import Answers, ask


def num_right(answers: Answers, records: list[ChoiceRecord]) -> int:
    pairs = zip(answers.predictions, records, strict=True)
    return sum(prediction == record.label for prediction, record in pairs)


def test_summed_likelihood_wins_and_ties_go_to_the_first(scripted: Any) -> None:
    records = [
        ChoiceRecord("p", (" b", " a"), 1),  # 'a' < 'b': the second is likelier
        ChoiceRecord("p", (" aa", " b"), 1),  # sums, not means: two tokens cost more
        ChoiceRecord("p", (" a", " a"), 0),
    ]
    answers = ask(scripted(), records, context=64)
    assert answers.predictions == [1, 1, 0]
    assert num_right(answers, records) == 3
    assert answers.scores[0] == pytest.approx([-(32 + 98) / 100, -(32 + 97) / 100])


def test_permuting_choices_and_labels_changes_nothing(scripted: Any) -> None:
    rng = np.random.default_rng(0)
    records, permuted = [], []
    for number in range(40):
        words = tuple(f" {chr(97 + c)}" for c in rng.permutation(20)[:3])
        label = int(rng.integers(3))
        records.append(ChoiceRecord(f"q{number}", words, label))
        order = rng.permutation(3)
        shuffled = tuple(words[i] for i in order)
        permuted.append(
            ChoiceRecord(f"q{number}", shuffled, int(np.flatnonzero(order == label)[0]))
        )
    first = num_right(ask(scripted(), records, context=64), records)
    assert num_right(ask(scripted(), permuted, context=64), permuted) == first


def test_long_prompts_lose_their_front_but_not_the_begin_token(scripted: Any) -> None:
    backend = scripted(adds_bos=True)
    records = [ChoiceRecord("0123456789", (" x", " yy"), 0), ChoiceRecord("01", (" x", " y"), 0)]
    answers = ask(backend, records, context=8)
    assert backend.asked[0].prompt == [backend.BOS, *b"6789"]
    assert len(backend.asked[0].prompt) + 3 == 8
    assert (answers.counts.truncated, answers.counts.with_bos) == (1, 2)


def test_impossible_records_are_named(scripted: Any) -> None:
    with pytest.raises(UsageError, match="record 1: a choice alone"):
        ask(scripted(), [ChoiceRecord("p", (" long choice", " x"), 0)], context=8)
    with pytest.raises(UsageError, match="record 1: an empty prompt"):
        ask(scripted(), [ChoiceRecord("", (" x", " y"), 0)], context=8)


def test_nan_is_an_error_and_not_an_answer(scripted: Any) -> None:
    class Broken(scripted):
        def score(self, questions: Sequence[Question]) -> list[list[Score]]:
            return [[Score(float("nan"), 1, False), Score(0.0, 1, False)] for _ in questions]

    with pytest.raises(FormatError, match="NaN"):
        ask(Broken(), [ChoiceRecord("p", (" x", " y"), 0)], context=8)


def test_progress_counts_every_record_once(scripted: Any) -> None:
    shown: list[tuple[int, int]] = []
    records = [ChoiceRecord("p", (" x", " y"), 0)] * 5
    backend = scripted()
    ask(backend, records, context=8, batch=2, progress=lambda *step: shown.append(step))
    assert shown == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert len(backend.asked) == 5
