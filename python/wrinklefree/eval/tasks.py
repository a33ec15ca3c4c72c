"""The tasks that wf-eval knows by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wrinklefree.data.glue import GLUE
from wrinklefree.data.records import ChoiceRecord
from wrinklefree.errors import UsageError, nearest
from wrinklefree.eval import baselines
from wrinklefree.eval.choices import ChoiceTask
from wrinklefree.eval.classification import METRICS, accuracy
from wrinklefree.eval.estimates import Estimate, proportion
from wrinklefree.eval.outcome import Task
from wrinklefree.eval.perplexity import PerplexityTask
from wrinklefree.eval.sources import (
    DataPaths,
    is_text,
    read_choices,
    read_documents,
    read_glue,
    read_summaries,
)
from wrinklefree.eval.summaries import SummaryTask
from wrinklefree.eval.text_overlap import check_packages

# Name on the command line: the GLUE task and its split.
GLUE_TASKS = {name: (name, task.eval_split) for name, task in GLUE.items()}
GLUE_TASKS["mnli_mismatch"] = ("mnli", "validation_mismatched")

PERPLEXITY, SUMMARIES = "ppl", "cnn_dailymail"
NAMES = (*GLUE_TASKS, PERPLEXITY, SUMMARIES)


def open_task(
    name: str, data: DataPaths, *, train: Path | None, limit: int | None, max_tokens: int
) -> Task:
    """The task called `name`, or the choice records in the file `name`.

    `max_tokens` bounds a generated answer.

    Raises UsageError for an unknown name, missing data or missing packages, FormatError naming a
    bad record.
    """
    if name == PERPLEXITY:
        if not data.files:
            raise UsageError("--tasks ppl needs --data FILE (text, or JSONL with a text per line)")
        place = ", ".join(map(str, data.files))
        return PerplexityTask(place, read_documents(data.files), limit)
    if name == SUMMARIES:
        check_packages()
        return SummaryTask(*read_summaries(data, limit), max_tokens)
    if name in GLUE_TASKS:
        return _glue_task(name, data, limit)
    if Path(name).is_file():
        if is_text(Path(name)):
            raise UsageError(f"--tasks {name} is a text: --tasks ppl --data {name} scores it")
        records = read_choices(Path(name), limit)
        return ChoiceTask(name, name, records, baselines=_baselines(records, train))
    hint = nearest(name, NAMES) or "; `wf lm-eval` runs the tasks of lm-eval"
    raise UsageError(f"--tasks {name!r} is neither a task nor a file{hint}")


def _glue_task(name: str, data: DataPaths, limit: int | None) -> Task:
    key, split = GLUE_TASKS[name]
    place, records = read_glue(key, split, data, limit)
    task = GLUE[key]
    protocol = {
        field: value
        for field, value in asdict(task).items()
        if field in ("prompt", "choices", "labels")
    }
    return ChoiceTask(
        name,
        place,
        records,
        METRICS.get(key, (accuracy,)),
        {**protocol, "split": split, "answer": "largest summed log-likelihood of the choices"},
        _baselines(records, None),
    )


def _baselines(
    records: Sequence[ChoiceRecord], train: Path | None
) -> dict[str, dict[str, Estimate]]:
    """Majority always, of `train` if given; with it a bag of words."""
    examples = read_choices(train) if train else records
    right = {"majority": baselines.majority(examples, records)}
    if train:
        right["bag_of_words"] = baselines.bag_of_words(examples, records)
    return {name: {"acc": proportion(count, len(records))} for name, count in right.items()}
