"""Types of the key-value cache, and sequences that share the beginning of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.conftest import all_logits
from wrinklefree import _engine
from wrinklefree.engine import LLM

TOKENS = [1, *range(3, 170)]
TYPES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "int8": 1.0}


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result


# Without int8 activations, whose rounding would drown what the cache loses.
@pytest.mark.parametrize(("kind", "bound"), [("f16", 1e-6), ("bf16", 1e-4), ("int8", 1e-3)])
def test_smaller_types_lose_little(stories_dir: Path, kind: str, bound: float) -> None:
    text = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big, red ball. She wanted to play with it, but it was too high."
    )
    llm = LLM(stories_dir)
    ids = llm.tokenizer.encode(text)
    expected = log_softmax(llm.logits(ids))
    actual = log_softmax(LLM(stories_dir, kv_cache=kind).logits(ids))  # type: ignore[arg-type]
    kl = (np.exp(expected) * (expected - actual)).sum(axis=-1).mean()
    assert 0 < kl < bound


@pytest.mark.parametrize("kind", TYPES)
def test_bits_depend_neither_on_chunks_nor_on_threads(ternary_gguf: Path, kind: str) -> None:
    model = _engine.Model(str(ternary_gguf), threads=1, kv_cache=kind)
    expected = all_logits(model, TOKENS)
    model = _engine.Model(str(ternary_gguf), threads=3, kv_cache=kind)
    sequence = model.sequence(len(TOKENS))
    parts = [
        model.step([_engine.StepItem(sequence, TOKENS[i : i + 37], None, "all")])[0].logits
        for i in range(0, len(TOKENS), 37)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_the_type_decides_the_memory(stories_dir: Path) -> None:
    sizes = {}
    for kind, element in TYPES.items():
        info = _engine.Model(str(stories_dir), kv_cache=kind).info
        numbers = info["num_layers"] * 2 * info["num_kv_heads"]
        scales = 4 if kind == "int8" else 0  # one float32 for a key, one for a value
        assert info["kv_bytes_per_token"] == numbers * (info["head_dim"] * element + scales)
        sizes[kind] = info["kv_bytes_per_token"]
    assert sizes["int8"] < sizes["f16"] == sizes["bf16"] < sizes["f32"]
    with pytest.raises(_engine.ModelError, match="kv_cache must be f32, f16, bf16 or int8"):
        _engine.Model(str(stories_dir), kv_cache="q4")


def test_sequences_of_another_type_are_refused(stories_dir: Path) -> None:
    model = _engine.Model(str(stories_dir), kv_cache="f16")
    other = _engine.Model(str(stories_dir), kv_cache="int8")
    with pytest.raises(_engine.ModelError, match="another model"):
        model.step([_engine.StepItem(other.sequence(4), [1])])


@pytest.mark.parametrize("shared", [0, 1, 31, 32, 33, 70])
def test_a_fork_continues_as_if_it_had_read_everything(ternary_gguf: Path, shared: int) -> None:
    model = _engine.Model(str(ternary_gguf))
    original = model.sequence(200)
    model.step([_engine.StepItem(original, TOKENS[:70])])
    fork = model.fork(original, shared, 150)
    assert (fork.length, fork.max_tokens) == (shared, 150)
    # Both write behind the shared part, in one step: neither sees the other's tokens.
    ours, theirs = TOKENS[100:140], TOKENS[80:120]
    outputs = model.step(
        [
            _engine.StepItem(fork, ours, None, "all"),
            _engine.StepItem(original, theirs, None, "all"),
        ]
    )
    expected = all_logits(model, [*TOKENS[:shared], *ours])[shared:]
    np.testing.assert_array_equal(outputs[0].logits, expected)
    expected = all_logits(model, [*TOKENS[:70], *theirs])[70:]
    np.testing.assert_array_equal(outputs[1].logits, expected)


def test_forks_outlive_what_they_were_made_from(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf))
    original = model.sequence(100)
    model.step([_engine.StepItem(original, TOKENS[:40])])
    forks = [model.fork(original, 40 - i, 100) for i in range(3)]
    del original
    for i, fork in enumerate(forks):
        (output,) = model.step([_engine.StepItem(fork, [7], None, "last")])
        expected = all_logits(model, [*TOKENS[: 40 - i], 7])[-1]
        np.testing.assert_array_equal(output.logits, expected)


def test_forks_check_their_arguments(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf))
    original = model.sequence(100)
    model.step([_engine.StepItem(original, TOKENS[:40])])
    for length, room in ((-1, 50), (41, 50), (40, 39), (0, 0)):
        with pytest.raises(_engine.ModelError, match="cannot share"):
            model.fork(original, length, room)
    with pytest.raises(_engine.ModelError, match="longer than the context"):
        model.fork(original, 1, model.info["context_length"] + 1)
