"""Which rows a run is evaluated on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wrinklefree.configs.config import DataConfig
from wrinklefree.training.inputs import load_rows


@pytest.fixture
def tokenizer(stories: str) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(stories)
    return tokenizer


def write(path: Path, num_records: int) -> str:
    rows = ({"prompt": f"{number}:", "completion": " yes"} for number in range(num_records))
    long = {"prompt": "long " * 50, "completion": " no"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, long)))
    return str(path)


@pytest.mark.parametrize(("eval_rows", "expected"), [(None, 70), (40, 40), (99, 70), (0, None)])
def test_all_rows_of_eval_path_count_and_too_long_ones_are_told(
    eval_rows: int | None,
    expected: int | None,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    config = DataConfig(
        path=write(tmp_path / "train.jsonl", 20),
        eval_path=write(tmp_path / "eval.jsonl", 70),
        eval_rows=eval_rows,
        format="sft",
        max_length=32,
    )
    rows = load_rows(config, tokenizer)
    assert rows.train is not None
    assert len(rows.train) == 20
    assert (len(rows.evaluation) if rows.evaluation is not None else None) == expected
    assert ("skipped 1 of 71 evaluation records" in caplog.text) == (eval_rows != 0)
    assert ("first 40 of 70 rows" in caplog.text) == (eval_rows == 40)


@pytest.mark.parametrize(("eval_rows", "expected"), [(None, 32), (40, 40), (99, 50), (0, None)])
def test_without_eval_path_the_last_rows_are_held_out(
    eval_rows: int | None, expected: int | None, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    path = write(tmp_path / "train.jsonl", 500)
    config = DataConfig(path=path, eval_rows=eval_rows, format="sft", max_length=32)
    rows = load_rows(config, tokenizer)
    assert rows.train is not None
    assert len(rows.train) == 500 - (expected or 0)
    assert (len(rows.evaluation) if rows.evaluation is not None else None) == expected
