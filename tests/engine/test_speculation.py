"""Drafts change how many steps a text takes, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import all_logits
from wrinklefree import _engine
from wrinklefree.engine import LLM, SamplingParams
from wrinklefree.engine.lookup import PromptLookup
from wrinklefree.errors import UsageError

PROMPT = [1, 403, 407, 261, 378]
SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "top_logprobs": 2},
    {"temperature": 1.5, "top_k": 5},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.4, "presence_penalty": 0.3},
    {"temperature": 1.0, "top_k": 4, "repetition_penalty": 1.2},
]


def one_by_one(model: _engine.Model, options: dict[str, Any], steps: int) -> list[Any]:
    sequence = model.sequence(len(PROMPT) + steps)
    sampler = _engine.Sampler(seed=3, **options)
    sampler.observe(PROMPT)
    inputs, drawn = PROMPT, []
    for _ in range(steps):
        (output,) = model.step([_engine.StepItem(sequence, inputs, sampler)])
        drawn.append((output.token, output.logprob, output.top))
        inputs = [output.token]
    return drawn


@pytest.mark.parametrize("head", ["stored", "screened"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("options", SAMPLERS, ids=lambda o: "-".join(o))
def test_drafts_right_and_wrong_give_the_same_samples(
    stories_dir: Path, options: dict[str, Any], threads: int, head: str
) -> None:
    """Drafts come from the known answer, some of them spoiled, up to 20 at a time: more than one
    pass of the head."""
    model = _engine.Model(str(stories_dir), threads=threads, head=head)
    expected = one_by_one(model, options, 60)
    sequence = model.sequence(len(PROMPT) + 90)
    sampler = _engine.Sampler(seed=3, **options)
    sampler.observe(PROMPT)
    drawn: list[Any] = []
    inputs, size = list(PROMPT), 0
    while len(drawn) < 40:
        drafts = [token for token, _, _ in expected[len(drawn) + 1 :][:size]]
        if size % 3 == 1 and drafts:
            drafts[size // 2 % len(drafts)] = 5  # probably wrong
        if not drawn:
            drafts = [token for token, _, _ in expected[:size]]
        item = _engine.StepItem(sequence, [*inputs, *drafts], sampler, drafts=len(drafts))
        (output,) = model.step([item])
        assert 1 <= len(output.samples) <= 1 + len(drafts)
        drawn += [(sample.token, sample.logprob, sample.top) for sample in output.samples]
        assert sequence.length == len(PROMPT) + len(drawn) - 1
        inputs, size = [drawn[-1][0]], (size + 4) % 21
    assert drawn[:60] == expected[: len(drawn)]


def test_wrong_drafts_leave_no_trace(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf))
    sequence = model.sequence(80)
    sampler = _engine.Sampler(temperature=0)
    item = _engine.StepItem(sequence, [*PROMPT, *range(5, 45)], sampler, drafts=40)
    (output,) = model.step([item])
    tokens = [*PROMPT, *(sample.token for sample in output.samples)]
    assert sequence.length == len(tokens) - 1
    (output,) = model.step([_engine.StepItem(sequence, [tokens[-1]], None, "last")])
    np.testing.assert_array_equal(output.logits, all_logits(model, tokens)[-1])


def test_drafts_in_a_batch_do_not_touch_the_others(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf), threads=2)
    samplers = [_engine.Sampler(temperature=0) for _ in range(3)]
    items = [
        _engine.StepItem(model.sequence(40), PROMPT, samplers[0]),
        _engine.StepItem(model.sequence(40), [*PROMPT, *range(20)], samplers[1], drafts=20),
        _engine.StepItem(model.sequence(40), PROMPT[:3], samplers[2], "all"),
    ]
    outputs = model.step(items)
    assert outputs[0].token == outputs[1].token
    expected = all_logits(model, PROMPT[:3])
    np.testing.assert_array_equal(outputs[2].logits, expected)
    assert outputs[2].token == int(expected[-1].argmax())


def test_drafts_are_checked(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf))
    sampler = _engine.Sampler()
    for tokens, drafts, used in (([1, 2], 2, sampler), ([1, 2], -1, sampler), ([1, 2], 1, None)):
        sequence = model.sequence(8)
        with pytest.raises(_engine.ModelError, match="drafts need"):
            model.step([_engine.StepItem(sequence, tokens, used, drafts=drafts)])
        assert sequence.length == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompt_lookup_gives_the_same_text_in_fewer_steps(
    stories_dir: Path, temperature: float
) -> None:
    llm = LLM(stories_dir)
    story = llm.generate("Once upon a time", max_tokens=80, sampling=SamplingParams(temperature=0))
    # The story so far and its first words again: the model repeats it at least in part.
    prompt = f"Once upon a time{story.text}\nOnce upon a time{story.text[:60]}"
    sampling = SamplingParams(temperature=temperature, seed=1)
    plain = llm.generate(prompt, max_tokens=60, sampling=sampling)
    looked_up = llm.generate(prompt, max_tokens=60, sampling=sampling, prompt_lookup=8)
    assert looked_up.token_ids == plain.token_ids
    assert looked_up.text == plain.text
    assert plain.timings.decode_steps == 59
    if temperature == 0:
        assert looked_up.timings.decode_steps < 50
    pieces = llm.stream(prompt, max_tokens=60, sampling=sampling, prompt_lookup=8)
    assert "".join(pieces) == plain.text


def test_prompt_lookup_stops_where_the_text_does(stories_dir: Path) -> None:
    llm = LLM(stories_dir)
    greedy = SamplingParams(temperature=0)
    text = llm.generate("Once upon a time", max_tokens=60, sampling=greedy).text
    prompt = f"Once upon a time{text}\nOnce upon a time"
    for stop in ([text[20:30]], [text[40:44]]):
        plain = llm.generate(prompt, max_tokens=60, sampling=greedy, stop=stop)
        looked_up = llm.generate(prompt, max_tokens=60, sampling=greedy, stop=stop, prompt_lookup=8)
        assert (looked_up.text, looked_up.finish_reason) == (plain.text, plain.finish_reason)
        assert looked_up.token_ids == plain.token_ids
    with pytest.raises(UsageError, match="prompt_lookup must be 0 to 32"):
        llm.generate("x", prompt_lookup=33)


def test_guesses_follow_the_last_occurrence() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 9, 2, 3, 5, 6, 7, 2, 3], 8)
    assert lookup.guess(8) == [5, 6, 7, 2, 3, 5, 6, 7]
    assert lookup.guess(2) == [5, 6]
    assert lookup.guess(0) == []
    lookup.extend([8])
    assert lookup.guess(8) == []
    lookup.extend([9, 2, 3])  # three known tokens count more than two
    assert lookup.guess(3) == [5, 6, 7]


def test_wrong_guesses_become_fewer() -> None:
    lookup = PromptLookup([1, 2] * 20, 8)
    assert lookup.guess(20) == [1, 2] * 4  # longer than what follows the last occurrence
    lookup = PromptLookup([*range(20), 0, 1], 8)
    assert len(lookup.guess(20)) == 8
    lookup.learn(8, 3)
    assert len(lookup.guess(20)) == 4
    lookup.learn(4, 0)
    lookup.learn(2, 0)
    assert len(lookup.guess(20)) == 1
    lookup.learn(1, 1)
    lookup.learn(2, 2)
    assert len(lookup.guess(20)) == 4
