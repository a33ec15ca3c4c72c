"""GLUE rows as prompts: the real rows of every task, and rows that are wrong."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import pytest

from wrinklefree.configs.config import SourceConfig
from wrinklefree.data.glue import GLUE, glue_example
from wrinklefree.data.records import PairRecord, parse
from wrinklefree.errors import FormatError


@pytest.mark.parametrize("name", sorted(GLUE))
def test_real_rows_become_prompts(name: str, data_dir: Path) -> None:
    task = GLUE[name]
    lines = (data_dir / "glue" / name / f"{task.eval_split}.jsonl").read_text(encoding="utf-8")
    labels = set()
    for line in lines.splitlines()[:100]:
        row = json.loads(line)
        prompt, choices, label = glue_example(task, row, "here")
        assert all(row[column].strip() in prompt for column in task.columns)
        assert prompt == prompt.strip()
        assert label == row["label"]
        labels.add(choices[label])
        pair = PairRecord(prompt, choices[label], ends=False)
        assert parse(row, SourceConfig(path="p", format=name), "here") == pair
    assert labels == set(choices)
    assert all(choice.startswith(" ") and choice.strip() for choice in choices)


def test_every_task_is_a_format() -> None:
    formats = typing.get_args(typing.get_type_hints(SourceConfig)["format"])
    assert set(GLUE) < set(formats)


def test_braces_in_a_sentence_are_text() -> None:
    prompt, _, _ = glue_example(GLUE["sst2"], {"sentence": "a {sentence} {0}", "label": 0}, "here")
    assert "a {sentence} {0}" in prompt


def test_a_label_may_be_a_name() -> None:
    row = {"premise": "a", "hypothesis": "b", "label": "contradiction"}
    assert glue_example(GLUE["mnli"], row, "here")[2] == 2


@pytest.mark.parametrize("label", [-1, 2, True, 1.0, None, "good", [0]])
def test_a_label_of_no_class_is_refused(label: object) -> None:
    with pytest.raises(FormatError, match=r"here: sst2 has no label .*0 \(negative\)"):
        glue_example(GLUE["sst2"], {"sentence": "x", "label": label}, "here")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(FormatError, match=r'mrpc: needs a string "sentence2"; it has label'):
        glue_example(GLUE["mrpc"], {"sentence1": "x", "label": 0}, "here")
