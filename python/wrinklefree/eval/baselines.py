"""Baselines of a choice task: the most frequent answer, and a bag of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from wrinklefree.data.records import ChoiceRecord
from wrinklefree.errors import UsageError

_WORD = re.compile(r"\w+")
_VOCABULARY = 20_000  # most frequent words and word pairs kept
_EPOCHS = 4
_LEARNING_RATE = 0.5  # of AdaGrad; with 4 epochs .787 on SST-2 from 8,000 examples
_SEED = 0


def majority(train: Sequence[ChoiceRecord], test: Sequence[ChoiceRecord]) -> int:
    """Right answers on `test` when always giving the most frequent answer text of `train`."""
    (answer, _), *_ = Counter(record.answer for record in train).most_common(1)
    return sum(record.answer == answer for record in test)


def bag_of_words(train: Sequence[ChoiceRecord], test: Sequence[ChoiceRecord]) -> int:
    """Right answers on `test` of a logistic regression on the words and word pairs of the prompt.

    Classes are answer texts, so that the order of a record's choices changes nothing. Raises
    UsageError when the answers of `train` are not a fixed set of labels.
    """
    classes = sorted({record.answer for record in train})
    if len(classes) < 2 or len(classes) > max(2, len(train) // 4):
        raise UsageError(
            f"bag of words needs a task with fixed answers, got {len(classes)} different ones in "
            f"{len(train)} training records"
        )
    counts = Counter(word for record in train for word in set(_features(record.prompt)))
    index = {word: i for i, (word, _) in enumerate(counts.most_common(_VOCABULARY))}
    class_index = {text: i for i, text in enumerate(classes)}
    weights = _fit(
        [_active(record, index) for record in train],
        np.array([class_index[record.answer] for record in train]),
        len(index),
        len(classes),
    )
    right = 0
    for record in test:
        scores = weights[_active(record, index)].sum(axis=0)
        # Only the record's own choices compete; ties go to the first, as for the model.
        own = [
            scores[class_index[text]] if text in class_index else -np.inf for text in record.choices
        ]
        right += int(np.argmax(own)) == record.label
    return right


def _features(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def _active(record: ChoiceRecord, index: dict[str, int]) -> np.ndarray:
    """Feature numbers present in a prompt; number len(index) is the bias."""
    known = {index[word] for word in _features(record.prompt) if word in index}
    return np.array([*sorted(known), len(index)])


def _fit(
    rows: Sequence[np.ndarray], labels: np.ndarray, num_features: int, num_classes: int
) -> np.ndarray:
    """Softmax regression by AdaGrad over single examples; weights [num_features + 1, classes]."""
    weights = np.zeros((num_features + 1, num_classes))
    squares = np.full_like(weights, 1e-8)
    order = np.random.default_rng(_SEED)
    for _ in range(_EPOCHS):
        for i in order.permutation(len(rows)):
            active = rows[i]
            scores = weights[active].sum(axis=0)
            gradient = np.exp(scores - scores.max())
            gradient /= gradient.sum()
            gradient[labels[i]] -= 1.0
            squares[active] += gradient**2
            weights[active] -= _LEARNING_RATE * gradient / np.sqrt(squares[active]) / len(active)
    return weights
