"""`Model.step` refuses what it cannot do before it computes anything, and can be interrupted."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.engine.conftest import all_logits
from wrinklefree import _engine


@pytest.fixture(scope="module")
def model(stories_dir: Path) -> _engine.Model:
    return _engine.Model(str(stories_dir))


def test_what_cannot_be_stepped_is_refused_whole(model: _engine.Model, ternary_gguf: Path) -> None:
    other = _engine.Model(str(ternary_gguf))
    good, full = model.sequence(9), model.sequence(1)
    sampler = _engine.Sampler()
    item = _engine.StepItem
    for items, problem in (
        ([item(good, [1]), item(good, [2])], "sequence is in the step twice"),
        ([item(good, [1], sampler), item(full, [1], sampler)], "sampler is in the step twice"),
        ([item(good, [1]), item(full, [1, 2])], "do not fit"),
        ([item(good, [1]), item(full, [512])], "not in the vocabulary"),
        ([item(good, [1]), item(full, [])], "no tokens"),
        ([item(good, [1]), item(other.sequence(4), [1])], "another model"),
    ):
        with pytest.raises(_engine.ModelError, match=problem):
            model.step(items)
        assert good.length == 0
    assert model.step([]) == []


def test_sequences_and_items_check_their_arguments(model: _engine.Model) -> None:
    with pytest.raises(_engine.ModelError, match="longer than the context"):
        model.sequence(513)
    with pytest.raises(_engine.ModelError, match="at least 1"):
        model.sequence(0)
    with pytest.raises(_engine.ModelError, match="'none', 'last' or 'all'"):
        _engine.StepItem(model.sequence(1), [1], None, "some")
    sequence = model.sequence(4)
    model.step([_engine.StepItem(sequence, [1, 2])])
    for length in (-1, 3):
        with pytest.raises(_engine.ModelError, match="cannot truncate"):
            sequence.truncate(length)


def test_memory_of_a_sequence_follows_its_length(model: _engine.Model) -> None:
    sequence = model.sequence(500)
    assert sequence.nbytes == 0
    model.step([_engine.StepItem(sequence, [1] * 33)])
    assert sequence.nbytes == 64 * model.info["kv_bytes_per_token"]  # two pages of 32
    sequence.truncate(32)
    assert sequence.nbytes == 32 * model.info["kv_bytes_per_token"]


def test_an_interrupt_ends_a_long_step_and_leaves_its_sequences(model: _engine.Model) -> None:
    sequence = model.sequence(512)
    model.step([_engine.StepItem(sequence, [1, 403])])
    items = [_engine.StepItem(model.sequence(512), [1] * 500) for _ in range(60)]
    items.append(_engine.StepItem(sequence, [407] * 400))
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            model.step(items)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - start < 2.0  # the whole step takes several seconds
    assert sequence.length == 2
    (output,) = model.step([_engine.StepItem(sequence, [407], None, "last")])
    np.testing.assert_array_equal(output.logits, all_logits(model, [1, 403, 407])[-1])
