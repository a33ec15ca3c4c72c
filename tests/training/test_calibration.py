"""Calibration on packed rows: documents are apart, as in the training that follows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedModel

from wrinklefree.data.encode import Encoder, Piece
from wrinklefree.data.loader import collate
from wrinklefree.data.packing import join_rows
from wrinklefree.data.records import TextRecord
from wrinklefree.models import calibrate_subln_, load_teacher, quantize_, read_manifest
from wrinklefree.models.calibration import CalibrationRows
from wrinklefree.models.weight_calibration import calibrate_weights_
from wrinklefree.training.forward import calibration_rows_of


@pytest.fixture(scope="module")
def texts(corpus: str) -> list[str]:
    """Real sentences: short documents."""
    text = Path(corpus).read_text(encoding="utf-8")
    return [sentence.strip() for sentence in text.split(".")[:24]]


@pytest.fixture
def model(stories: str) -> PreTrainedModel:
    return load_teacher(stories)[0]


@pytest.fixture
def pieces(texts: list[str], stories: str) -> list[Piece]:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    return Encoder(tokenizer, max_length=512)([TextRecord(text) for text in texts]).pieces


def rows_of(pieces: list[Piece], model: PreTrainedModel, *, documents: int) -> CalibrationRows:
    """One batch with so many documents a row."""
    starts = range(0, len(pieces), documents)
    rows = join_rows([pieces[start : start + documents] for start in starts])
    return calibration_rows_of(collate(rows, tuple(range(len(rows)))), model.config)


def test_a_document_a_row_is_plain_causal(pieces: list[Piece], model: PreTrainedModel) -> None:
    rows = rows_of(pieces, model, documents=1)
    assert rows.position_ids is rows.attention_mask is None


def test_solved_weights_are_those_of_separate_documents(
    pieces: list[Piece], model: PreTrainedModel
) -> None:
    errors = []
    for documents in (1, 4):
        student = copy.deepcopy(model)
        quantize_(student)
        errors.append(
            calibrate_weights_(student, model, rows_of(pieces, model, documents=documents))
        )
    # Of the first layer: later on, sums in another order flip some codes. Documents that see each
    # other change these errors by up to 7 %.
    apart, packed = (
        {name: error for name, error in found.items() if name.startswith("layers.0.")}
        for found in errors
    )
    assert packed == pytest.approx(apart, rel=1e-3)


def test_stage_1_calibrates_on_separate_documents(
    run: Callable[..., Path], texts: list[str], pieces: list[Piece], stories: str, tmp_path: Path
) -> None:
    data = tmp_path / "sentences.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    # One row holds them all.
    settings = (f"model.path={stories}", f"data.path={data}", "data.max_length=1024")
    errors = read_manifest(run("stage1_subln", tmp_path / "s1", *settings)).metrics["subln_errors"]
    model = load_teacher(stories)[0]
    quantize_(model)
    expected = calibrate_subln_(model, [rows_of(pieces, model, documents=1)])
    assert errors == pytest.approx(expected, rel=1e-4)
