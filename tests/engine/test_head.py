"""The screened head draws what the stored head draws, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wrinklefree import _engine
from wrinklefree.engine import LLM, SamplingParams

SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0, "logit_bias": [(400, 30.0), (3, -1000.0)]},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 3.0, "top_k": 20},
    {"temperature": 3.0, "top_k": 20, "top_p": 0.7, "min_p": 0.05},
    {"temperature": 2.0, "min_p": 0.02},
    {"temperature": 2.0, "min_p": 0.02, "top_p": 0.8},
    {"temperature": 2.0, "top_k": 8, "presence_penalty": 2.0, "frequency_penalty": 0.5},
    {"temperature": 2.0, "top_k": 8, "logit_bias": [(5, 12.0), (400, -3.0)]},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0},
]


SEEDS = 4
STEPS = 16


def continuation(
    model: _engine.Model, options: dict[str, Any], *, seed: int, steps: int
) -> list[int]:
    sequence = model.sequence(8 + steps)
    sampler = _engine.Sampler(seed=seed, **options)
    inputs = [1, 403, 407 + seed % 5]
    sampler.observe(inputs)
    tokens = []
    for _ in range(steps):
        (output,) = model.step([_engine.StepItem(sequence, inputs, sampler)])
        tokens.append(output.token)
        inputs = [output.token]
    return tokens


@pytest.fixture(scope="module", params=["hf", "gguf"])
def path(request: pytest.FixtureRequest, stories_dir: Path, ternary_gguf: Path) -> Path:
    return stories_dir if request.param == "hf" else ternary_gguf


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_tokens_as_the_stored_head(path: Path, threads: int) -> None:
    stored = _engine.Model(str(path), threads=threads, head="stored")
    screened = _engine.Model(str(path), threads=threads, head="screened")
    assert (stored.info["head"], screened.info["head"]) == ("stored", "screened")
    for options in SAMPLERS:
        for seed in range(SEEDS):
            expected = continuation(stored, options, seed=seed, steps=STEPS)
            assert continuation(screened, options, seed=seed, steps=STEPS) == expected, options
    rows, rescored = screened.head_counts
    needs_all = sum("top_k" not in s and "min_p" not in s and s["temperature"] for s in SAMPLERS)
    assert rows == (len(SAMPLERS) - needs_all) * SEEDS * STEPS
    assert rows < rescored < rows * 200
    assert stored.head_counts == (0, 0)


def test_rows_of_one_step_may_need_different_logits(stories_dir: Path) -> None:
    """A batch that mixes samplers, reported log probabilities and whole rows of logits."""
    results = []
    for head in ("stored", "screened"):
        model = _engine.Model(str(stories_dir), threads=2, head=head)
        items = [
            _engine.StepItem(
                model.sequence(8),
                [1, 403 + i],
                _engine.Sampler(seed=i, temperature=i % 3, top_k=5 * (i % 2), top_logprobs=want),
                ("none", "last", "all")[i % 3 if i > 15 else 0],
            )
            for i, want in enumerate([None, None, 0, None, 3] * 4)
        ]
        outputs = model.step(items)
        results.append(
            [
                (o.token, o.top, o.logprob, None if o.logits is None else o.logits.tobytes())
                for o in outputs
            ]
        )
    assert results[0] == results[1]


def test_log_probabilities_are_reported_on_demand(stories_dir: Path) -> None:
    llm = LLM(stories_dir, head="screened")
    plain = llm.generate("Once", max_tokens=8, sampling=SamplingParams(temperature=0))
    assert plain.logprobs == ()
    told = llm.generate("Once", max_tokens=8, sampling=SamplingParams(temperature=0, logprobs=0))
    assert told.token_ids == plain.token_ids
    assert len(told.logprobs) == len(told.token_ids)


def test_small_heads_are_read_as_stored(stories_dir: Path) -> None:
    info = LLM(stories_dir).info
    assert info["head"] == "stored"
    assert info["head_screen_bytes"] == 0


def test_an_unknown_head_is_refused(stories_dir: Path) -> None:
    with pytest.raises(_engine.ModelError, match="head must be"):
        _engine.Model(str(stories_dir), head="int4")
