from __future__ import annotations

import random

import pytest

from wrinklefree.data.records import ChoiceRecord
from wrinklefree.errors import UsageError
from wrinklefree.eval.baselines import bag_of_words, majority

GOOD_WORDS = ("great", "lovely", "fun", "warm", "clever")
BAD_WORDS = ("dull", "awful", "slow", "cold", "silly")
FILLER = ("the", "film", "is", "a", "story", "of", "two", "friends")


def reviews(count: int, seed: int, positive_share: float = 0.5) -> list[ChoiceRecord]:
    """Reviews whose label is told by one word among filler; the order of choices is random."""
    rng = random.Random(seed)
    records = []
    for _ in range(count):
        is_good = rng.random() < positive_share
        words = [rng.choice(FILLER) for _ in range(8)]
        words.insert(rng.randrange(9), rng.choice(GOOD_WORDS if is_good else BAD_WORDS))
        choices = [" bad", " good"]
        if rng.random() < 0.5:
            choices.reverse()
        label = choices.index(" good" if is_good else " bad")
        records.append(ChoiceRecord(" ".join(words), tuple(choices), label))
    return records


def permuted(records: list[ChoiceRecord]) -> list[ChoiceRecord]:
    return [ChoiceRecord(r.prompt, r.choices[::-1], 1 - r.label) for r in records]


def test_bag_of_words_learns_what_words_tell() -> None:
    train, test = reviews(300, 1), reviews(200, 2)
    assert bag_of_words(train, test) > 190
    assert bag_of_words(train, permuted(test)) == bag_of_words(train, test)
    assert bag_of_words(permuted(train), test) == bag_of_words(train, test)


def test_majority_counts_answers_not_positions() -> None:
    train, test = reviews(300, 1, 0.8), reviews(200, 2, 0.8)
    share = majority(train, test) / len(test)
    assert share == pytest.approx(0.8, abs=0.06)
    assert majority(permuted(train), test) == majority(train, permuted(test))


def test_open_answers_have_no_bag_of_words() -> None:
    train = [ChoiceRecord(f"q{i}", (f" a{i}", f" b{i}"), 0) for i in range(20)]
    with pytest.raises(UsageError, match="fixed answers"):
        bag_of_words(train, train)
