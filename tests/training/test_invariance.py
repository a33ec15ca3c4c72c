"""Padding, the split into batches and other documents of a row change no loss or gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from wrinklefree.data.loader import Batch, collate
from wrinklefree.data.packing import TokenRows, tokenize
from wrinklefree.data.records import PairRecord, TextRecord
from wrinklefree.errors import UsageError
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training.forward import decode
from wrinklefree.training.objective import Objective, count
from wrinklefree.training.precision import Precision
from wrinklefree.training.teacher import Teacher

OBJECTIVE = Objective(
    ce_weight=1.0,
    kd_weight=1.0,
    kd_tau=2.0,
    kd_everywhere=True,
    gamma=1000.0,
    relation_layers=(1, 3),
    split_heads=8,
    relation_normalisation="bitdistill",
    layerwise_weight=0.5,
    layer_weights=(1.0,) * 5,
)
FLOAT32 = Precision(torch.device("cpu"), torch.float32)
SENTENCES = [
    "One day",
    "Lily saw a big red ball in the park and wanted to play.",
    "Tom",
    "The cat was sad because it could not find the blue fish.",
    "They ran",
    "She said hello to her friend and they were happy.",
    "A dog",
    "The sun was very bright that day.",
]


@pytest.fixture(scope="module")
def model(stories: str) -> PreTrainedModel:
    return load_teacher(stories)[0].train()


@pytest.fixture(scope="module")
def teacher(stories: str, model: PreTrainedModel) -> Teacher:
    other, _ = load_teacher(stories)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return Teacher(other, OBJECTIVE, student=model, precision=FLOAT32)


@pytest.fixture(scope="module")
def rows(stories: str) -> TokenRows:
    records = [PairRecord(text, " good", ends=True) for text in SENTENCES]
    return tokenize(records, AutoTokenizer.from_pretrained(stories), max_length=64)


def loss_and_gradients(
    model: PreTrainedModel, teacher: Teacher, batches: list[Batch]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """As the trainer accumulates: counts first, then one backward pass a batch."""
    counts = count(batches)
    sums: dict[str, float] = {}
    model.zero_grad()
    for batch in batches:
        terms = OBJECTIVE.terms(model, batch, teacher(batch), counts)
        torch.stack(list(terms.values())).sum().backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.item()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return sums, gradients


def assert_same(
    got: tuple[dict[str, float], dict[str, torch.Tensor]],
    expected: tuple[dict[str, float], dict[str, torch.Tensor]],
) -> None:
    assert got[0] == pytest.approx(expected[0], rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        difference = float((got[1][name] - gradient).abs().max())
        assert difference < 1e-5 * scale, name


@pytest.mark.parametrize("pad_to", [0, 90], ids=["pad=0", "pad=50+"])
@pytest.mark.parametrize("batch_size", [8, 2, 1])
def test_accumulation_and_padding(
    model: PreTrainedModel, teacher: Teacher, rows: TokenRows, batch_size: int, pad_to: int
) -> None:
    expected = loss_and_gradients(model, teacher, [collate(rows, tuple(range(8)))])
    assert set(expected[0]) == {"ce", "kd", "relation", "layerwise"}
    assert all(value > 0 for value in expected[0].values())
    batches = [
        collate(rows, tuple(range(start, start + batch_size)), pad_to=pad_to)
        for start in range(0, 8, batch_size)
    ]
    assert_same(loss_and_gradients(model, teacher, batches), expected)


def test_packed_documents_do_not_see_each_other(
    model: PreTrainedModel, teacher: Teacher, stories: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    alone = [
        collate(tokenize([TextRecord(text)], tokenizer, max_length=64), (0,)) for text in SENTENCES
    ]
    packed_rows = tokenize([TextRecord(text) for text in SENTENCES], tokenizer, max_length=400)
    packed = collate(packed_rows, (0,))
    assert len(packed_rows) == 1
    assert packed.is_packed
    assert_same(
        loss_and_gradients(model, teacher, [packed]), loss_and_gradients(model, teacher, alone)
    )


def test_a_sliding_window_is_not_widened(
    model: PreTrainedModel, stories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    packed = tokenize([TextRecord(text) for text in SENTENCES], tokenizer, max_length=400)
    monkeypatch.setattr(model.config, "sliding_window", 16, raising=False)
    with pytest.raises(UsageError, match="sliding window of 16"):
        decode(model, collate(packed, (0,)))


def test_a_row_of_padding_gives_finite_gradients(
    model: PreTrainedModel, teacher: Teacher, rows: TokenRows
) -> None:
    empty = TokenRows(
        rows.tokens[:0], rows.targets[:0], rows.documents[:0], np.zeros(2, np.int64), 0
    )
    sums, gradients = loss_and_gradients(model, teacher, [collate(empty, (0,), pad_to=6)])
    assert set(sums.values()) == {0.0}
    assert all(float(gradient.abs().max()) == 0.0 for gradient in gradients.values())
