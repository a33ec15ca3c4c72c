"""Held-out numbers: accuracy of choice rows against choosing by hand, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from wrinklefree.data.encode import IGNORE
from wrinklefree.data.packing import TokenRows
from wrinklefree.models import QuantConfig, quantize_
from wrinklefree.training.evaluation import Evaluation

LENGTHS = (3, 7, 4, 5, 9, 2)
ANSWERS = (5, 9, 5, 5, 9, 9)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def _rows(labels_per_row: int = 1, answers: tuple[int, ...] = ANSWERS) -> TokenRows:
    generator = np.random.default_rng(0)
    targets = []
    for length, answer in zip(LENGTHS, answers, strict=True):
        row = np.full(length, IGNORE, np.int32)
        row[length - labels_per_row :] = answer
        targets.append(row)
    total = sum(LENGTHS)
    return TokenRows(
        tokens=generator.integers(0, 32, total, dtype=np.int32),
        targets=np.concatenate(targets),
        documents=np.zeros(total, np.int32),
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]),
        skipped=0,
    )


@torch.no_grad()
def _accuracy(model: LlamaForCausalLM, rows: TokenRows) -> float:
    """One row at a time, through the whole vocabulary."""
    correct = 0
    for i in range(len(rows)):
        tokens, targets, _ = rows.row(i)
        logits = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0, -1]
        correct += (5 if logits[5] > logits[9] else 9) == targets[-1]
    return correct / len(rows)


def test_accuracy_is_that_of_the_likelier_answer(model: LlamaForCausalLM) -> None:
    rows = _rows()
    measured = Evaluation(rows, batch_size=4).measure(model)
    assert measured["accuracy"] == _accuracy(model, rows)
    flipped = _rows(answers=tuple(14 - answer for answer in ANSWERS))
    assert Evaluation(flipped, batch_size=4).measure(model)["accuracy"] == pytest.approx(
        1 - measured["accuracy"]
    )


def test_below_lambda_1_the_deployed_model_is_measured_too(model: LlamaForCausalLM) -> None:
    rows = _rows()
    float_accuracy = _accuracy(model, rows)
    quantize_(model, QuantConfig(subln="none", lam=0.0))
    measured = Evaluation(rows, batch_size=4).measure(model)
    assert measured["accuracy"] == float_accuracy
    deployed = {"accuracy_deployed", "cross_entropy_deployed"}
    assert measured.keys() == {"accuracy", "cross_entropy"} | deployed
    assert measured["cross_entropy_deployed"] != measured["cross_entropy"]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(_rows(labels_per_row=2), id="two labels a row"),
        pytest.param(_rows(answers=(5,) * 6), id="one answer only"),
    ],
)
def test_other_rows_have_no_accuracy(model: LlamaForCausalLM, rows: TokenRows) -> None:
    assert Evaluation(rows, batch_size=4).measure(model).keys() == {"cross_entropy"}
