"""Sampling: which tokens can be drawn, how often, and that a seed decides it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wrinklefree import _engine

PROMPT = [1, 403]  # leaves several likely tokens open
DRAWS = 400
FLAT = 4.0  # temperature at which several tokens are likely


@pytest.fixture(scope="module")
def model(stories_dir: Path) -> _engine.Model:
    return _engine.Model(str(stories_dir))


@pytest.fixture(scope="module")
def probabilities(model: _engine.Model) -> NDArray[np.float64]:
    """[V] after PROMPT."""
    sequence = model.sequence(4)
    (output,) = model.step([_engine.StepItem(sequence, PROMPT, None, "last")])
    logits = output.logits.astype(np.float64)
    p: NDArray[np.float64] = np.exp(logits - logits.max())
    return p / p.sum()


def draws(model: _engine.Model, count: int = DRAWS, **options: Any) -> list[int]:
    """Independent draws after PROMPT: one sampler each, seeds 0, 1, 2, ..."""
    sequence = model.sequence(4)
    model.step([_engine.StepItem(sequence, PROMPT[:-1])])
    tokens = []
    for seed in range(count):
        sequence.truncate(len(PROMPT) - 1)
        sampler = _engine.Sampler(seed=seed, **options)
        tokens.append(model.step([_engine.StepItem(sequence, PROMPT[-1:], sampler)])[0].token)
    return tokens


def flattened(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distribution at temperature FLAT."""
    p: NDArray[np.float64] = probabilities ** (1 / FLAT)
    return p / p.sum()


def by_likelihood(probabilities: NDArray[np.float64]) -> list[int]:
    return [int(i) for i in np.argsort(-probabilities)]


def test_frequencies_follow_the_distribution(
    model: _engine.Model, probabilities: NDArray[np.float64]
) -> None:
    counts = Counter(draws(model, 1500))
    for token in by_likelihood(probabilities)[:4]:
        p = probabilities[token]
        assert abs(counts[token] / 1500 - p) < 5 * np.sqrt(p * (1 - p) / 1500)


def test_temperature_sharpens(model: _engine.Model, probabilities: NDArray[np.float64]) -> None:
    best = by_likelihood(probabilities)[0]
    sharpened = probabilities[best] ** 2 / (probabilities**2).sum()
    share = draws(model, 1500, temperature=0.5).count(best) / 1500
    assert abs(share - sharpened) < 5 * np.sqrt(sharpened * (1 - sharpened) / 1500)


def test_temperature_zero_is_the_most_likely(
    model: _engine.Model, probabilities: NDArray[np.float64]
) -> None:
    assert set(draws(model, 3, temperature=0)) == {by_likelihood(probabilities)[0]}


def test_top_k(model: _engine.Model, probabilities: NDArray[np.float64]) -> None:
    assert set(draws(model, temperature=FLAT, top_k=3)) == set(by_likelihood(probabilities)[:3])


def test_top_p_is_the_smallest_set_that_reaches_it(
    model: _engine.Model, probabilities: NDArray[np.float64]
) -> None:
    order = by_likelihood(probabilities)
    mass = np.cumsum(flattened(probabilities)[order])
    top_p = float(mass[1] + mass[2]) / 2  # needs three
    assert set(draws(model, temperature=FLAT, top_p=top_p)) == set(order[:3])


def test_min_p(model: _engine.Model, probabilities: NDArray[np.float64]) -> None:
    order = by_likelihood(probabilities)
    relative = flattened(probabilities)[order] / flattened(probabilities)[order[0]]
    min_p = float(relative[2] + relative[3]) / 2
    assert set(draws(model, temperature=FLAT, min_p=min_p)) == set(order[:3])


def test_a_seed_decides_the_text(model: _engine.Model) -> None:
    def text(seed: int) -> list[int]:
        sampler = _engine.Sampler(seed=seed)
        sequence, inputs, tokens = model.sequence(40), PROMPT, []
        for _ in range(30):
            tokens.append(model.step([_engine.StepItem(sequence, inputs, sampler)])[0].token)
            inputs = tokens[-1:]
        return tokens

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_reported_logprobs_are_the_models_own(
    model: _engine.Model, probabilities: NDArray[np.float64]
) -> None:
    order = by_likelihood(probabilities)
    sampler = _engine.Sampler(temperature=0, top_logprobs=5, logit_bias=[(order[7], 100.0)])
    (output,) = model.step([_engine.StepItem(model.sequence(4), PROMPT, sampler)])
    assert output.token == order[7]
    assert output.logprob == pytest.approx(np.log(probabilities[order[7]]), abs=1e-4)
    assert [token for token, _ in output.top] == order[:5]
    expected = np.log(probabilities[order[:5]])
    np.testing.assert_allclose([logprob for _, logprob in output.top], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_penalties_forbid_what_was_drawn(model: _engine.Model, name: str) -> None:
    sampler = _engine.Sampler(temperature=0, **{name: 100.0})
    sequence, tokens = model.sequence(20), []
    for _ in range(8):
        # The same context each time: without a penalty the same token would follow.
        sequence.truncate(0)
        tokens.append(model.step([_engine.StepItem(sequence, PROMPT, sampler)])[0].token)
    assert len(set(tokens)) == 8


def test_repetition_penalty_counts_the_prompt_it_was_told(
    model: _engine.Model, probabilities: NDArray[np.float64]
) -> None:
    best = by_likelihood(probabilities)[0]
    sampler = _engine.Sampler(temperature=0, repetition_penalty=100.0)
    sampler.observe([best])
    (output,) = model.step([_engine.StepItem(model.sequence(4), PROMPT, sampler)])
    assert output.token != best


def words_of(tokens: list[int], num_words: int) -> NDArray[np.uint32]:
    words = np.zeros(num_words, np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


@pytest.mark.parametrize("head", ["stored", "screened"])
def test_only_allowed_tokens_are_drawn(
    stories_dir: Path, probabilities: NDArray[np.float64], head: str
) -> None:
    model = _engine.Model(str(stories_dir), head=head)
    ranked = by_likelihood(probabilities)
    allowed = [ranked[i] for i in (3, 7, 8, 400)]
    sequence = model.sequence(4)
    model.step([_engine.StepItem(sequence, PROMPT[:-1])])

    def draw(sampler: _engine.Sampler) -> _engine.StepOutput:
        sequence.truncate(len(PROMPT) - 1)
        return model.step([_engine.StepItem(sequence, PROMPT[-1:], sampler)])[0]

    greedy = _engine.Sampler(temperature=0, top_logprobs=2)
    greedy.allow(words_of(allowed, 16))
    output = draw(greedy)
    assert output.token == allowed[0]
    # What is reported is the model's, before the rule.
    assert output.logprob == pytest.approx(np.log(probabilities[allowed[0]]), abs=1e-3)
    assert [token for token, _ in output.top] == ranked[:2]
    greedy.allow(np.zeros(0, np.uint32))
    assert draw(greedy).token == ranked[0]

    sampler = _engine.Sampler(temperature=FLAT, seed=0)
    sampler.allow(words_of(allowed, 16))
    counts = Counter(draw(sampler).token for _ in range(DRAWS))
    assert counts.keys() <= set(allowed)
    expected = probabilities[allowed] ** (1 / FLAT)
    expected /= expected.sum()
    share = counts[allowed[0]] / DRAWS
    assert share == pytest.approx(expected[0], abs=5 * (expected[0] / DRAWS) ** 0.5)

    top_1 = _engine.Sampler(temperature=1, top_k=1, seed=0)
    top_1.allow(words_of(allowed, 16))
    assert draw(top_1).token == allowed[0]


def test_a_rule_that_allows_nothing_is_an_error(model: _engine.Model) -> None:
    sampler = _engine.Sampler()
    sequence = model.sequence(8)
    for words in (np.zeros(16, np.uint32), np.zeros(1, np.uint32)):
        sampler.allow(words)
        with pytest.raises(_engine.ModelError, match="no token"):
            model.step([_engine.StepItem(sequence, PROMPT, sampler)])
    sampler.allow(words_of([5], 1))  # tokens beyond the words are not allowed
    assert model.step([_engine.StepItem(sequence, PROMPT, sampler)])[0].token == 5
    with pytest.raises(_engine.ModelError, match="drafts"):
        model.step([_engine.StepItem(sequence, [5, 6], sampler, drafts=1)])
