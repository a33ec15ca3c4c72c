"""The times of phases: they add up, every phase has some, and measuring changes no bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.conftest import PROMPT
from wrinklefree import _engine

PHASES = {"matmul", "attention", "head", "norm_quantize", "barrier", "other"}


def greedy(model: _engine.Model, steps: int) -> tuple[list[int], np.ndarray]:
    """The tokens of `steps` steps, and the logits of the last."""
    sequence = model.sequence(len(PROMPT) + steps)
    sampler = _engine.Sampler(temperature=0)
    tokens, inputs = [], PROMPT
    for _ in range(steps):
        (output,) = model.step([_engine.StepItem(sequence, inputs, sampler, "last")])
        inputs = [output.token]
        tokens += inputs
    return tokens, output.logits


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("head", ["stored", "screened"])
def test_measuring_changes_nothing_and_adds_up(ternary_gguf: Path, threads: int, head: str) -> None:
    model = _engine.Model(str(ternary_gguf), threads=threads, head=head)
    expected = greedy(model, 20)
    assert model.take_profile() == dict.fromkeys(PHASES | {"total", "steps"}, 0), "nobody asked"
    model.profile(True)
    measured = greedy(model, 20)
    times = model.take_profile()
    assert measured[0] == expected[0]
    np.testing.assert_array_equal(measured[1], expected[1])
    assert times["steps"] == 20
    assert sum(times[phase] for phase in PHASES) == pytest.approx(times["total"])
    for phase in PHASES - {"barrier"}:
        assert times[phase] > 0, phase
    assert (times["barrier"] > 0) == (threads > 1)
    model.profile(False)
    greedy(model, 1)
    assert model.take_profile()["steps"] == 0


def test_rows_that_nobody_samples_have_no_head(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf), threads=2)
    model.profile(True)
    model.step([_engine.StepItem(model.sequence(200), [5] * 150)])
    without = model.take_profile()
    model.step([_engine.StepItem(model.sequence(200), [5] * 150, None, "all")])
    assert model.take_profile()["head"] > 10 * without["head"]
