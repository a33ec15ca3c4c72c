"""Models and small helpers that the engine tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.convert.tiny_models import save_tiny_artifact
from wrinklefree import _engine

PROMPT = [1, 403, 407, 261, 378]  # of both golden files

TopTokens = list[list[tuple[int, float]]]


def greedy_tops(model: _engine.Model, steps: int) -> TopTokens:
    """Top three (token, log probability) of each greedy step after PROMPT."""
    sequence = model.sequence(len(PROMPT) + steps)
    sampler = _engine.Sampler(temperature=0, top_logprobs=3)
    inputs, tops = PROMPT, []
    for _ in range(steps):
        (output,) = model.step([_engine.StepItem(sequence, inputs, sampler)])
        tops.append(output.top)
        inputs = [output.token]
    return tops


def all_logits(model: _engine.Model, tokens: Sequence[int]) -> NDArray[np.float32]:
    """[T, V]: logits after each of `tokens`, in one step."""
    item = _engine.StepItem(model.sequence(len(tokens)), list(tokens), None, "all")
    logits: NDArray[np.float32] = model.step([item])[0].logits
    return logits


@pytest.fixture(scope="session")
def golden() -> Callable[[Path], TopTokens]:
    """golden(directory) -> the reference's tops in that directory's golden_hf_fp32.json."""

    def read(directory: Path) -> TopTokens:
        steps = json.loads((directory / "golden_hf_fp32.json").read_text())
        return [[(token, logprob) for token, logprob in step] for step in steps]

    return read


@pytest.fixture(scope="session")
def stories_dir(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf"


@pytest.fixture(scope="session")
def all_norms_dir(stories_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose every linear layer has a norm of its own (SubLN placement `all`)."""
    path = tmp_path_factory.mktemp("all") / "artifact"
    return save_tiny_artifact(path, stories_dir, "qwen3", subln="all")


@pytest.fixture(scope="session")
def ternary_gguf(data_dir: Path) -> Path:
    """A ternary Llama with head size 64 in TQ2_0."""
    return data_dir / "ternary_gguf_fixture" / "rand256-tq2_0.gguf"
