"""The GLUE tasks as prompts with verbalised choices: one table for training and evaluation.

Rows have the columns and label numbers of `nyu-mll/glue` on the hub (arXiv 1804.07461). The texts
of prompts and choices are stated in docs/training.md; changing one changes every score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wrinklefree.data.fields import string_field
from wrinklefree.errors import FormatError

HUB_ID = "nyu-mll/glue"


@dataclass(frozen=True, slots=True)
class GlueTask:
    """How one task is put to a language model; `choices[i]` says label i, `labels[i]` names it."""

    name: str
    hub_id: str
    subset: str
    eval_split: str
    columns: tuple[str, ...]  # the columns that the prompt takes
    prompt: str  # a str.format template; ends without a space, the choices begin with one
    choices: tuple[str, ...]
    labels: tuple[str, ...]


def _task(
    name: str,
    columns: tuple[str, ...],
    prompt: str,
    choices: tuple[str, ...],
    labels: tuple[str, ...],
    eval_split: str = "validation",
) -> GlueTask:
    return GlueTask(name, HUB_ID, name, eval_split, columns, prompt, choices, labels)


GLUE: dict[str, GlueTask] = {
    task.name: task
    for task in (
        _task(
            "sst2",
            ("sentence",),
            "Review: {sentence}\nSentiment:",
            (" negative", " positive"),
            ("negative", "positive"),
        ),
        _task(
            "cola",
            ("sentence",),
            "Sentence: {sentence}\nIs this sentence grammatical? Answer:",
            (" no", " yes"),
            ("unacceptable", "acceptable"),
        ),
        _task(
            "mrpc",
            ("sentence1", "sentence2"),
            "First: {sentence1}\nSecond: {sentence2}\nDo both sentences mean the same? Answer:",
            (" no", " yes"),
            ("not_equivalent", "equivalent"),
        ),
        _task(
            "rte",
            ("sentence1", "sentence2"),
            "Text: {sentence1}\nClaim: {sentence2}\nDoes the claim follow from the text? Answer:",
            (" yes", " no"),
            ("entailment", "not_entailment"),
        ),
        _task(
            "qnli",
            ("question", "sentence"),
            "Question: {question}\nText: {sentence}\nDoes the text answer the question? Answer:",
            (" yes", " no"),
            ("entailment", "not_entailment"),
        ),
        _task(
            "mnli",
            ("premise", "hypothesis"),
            "Text: {premise}\nClaim: {hypothesis}\nDoes the claim follow from the text? Answer:",
            (" yes", " maybe", " no"),
            ("entailment", "neutral", "contradiction"),
            eval_split="validation_matched",
        ),
    )
}


def glue_example(
    task: GlueTask, row: Mapping[str, Any], where: str
) -> tuple[str, tuple[str, ...], int]:
    """Prompt, choices and the index of the right choice, from one raw row.

    `label` is the hub's number or its name. White space around the sentences is dropped (SST-2 has
    it). Raises FormatError, beginning with `where`, for a missing column or label; rows of the
    hub's test splits have the label -1, which is none.
    """
    texts: dict[str, str] = {}
    for column in task.columns:
        texts[column] = string_field(row, column, f"{where}: {task.name}").strip()
    return task.prompt.format(**texts), task.choices, _label(task, row.get("label"), where)


def _label(task: GlueTask, label: Any, where: str) -> int:
    if label in task.labels:
        return task.labels.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(task.labels):
        return label
    allowed = ", ".join(f"{number} ({name})" for number, name in enumerate(task.labels))
    raise FormatError(f"{where}: {task.name} has no label {label!r}; allowed are {allowed}")
