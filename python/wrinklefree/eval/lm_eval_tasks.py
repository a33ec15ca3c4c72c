"""Our GLUE tasks as task files of lm-eval, over local files: same prompts, same choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from wrinklefree.data.glue import GLUE, GlueTask
from wrinklefree.errors import UsageError
from wrinklefree.eval.sources import split_files
from wrinklefree.eval.tasks import GLUE_TASKS

GROUP = "wrinklefree_glue"  # the tag under which lm-eval runs all of them

_METRICS = {"mrpc": ("acc", "f1"), "cola": ("mcc", "acc")}
_AGGREGATIONS = {"acc": "mean", "f1": "f1", "mcc": "matthews_corrcoef"}


def write_tasks(folder: Path, data: Sequence[Path]) -> list[str]:
    """Writes one YAML file per task that the folders `data` hold; the names of the tasks.

    Raises UsageError when they hold none.
    """
    written = []
    for name, (key, split) in GLUE_TASKS.items():
        try:
            files = split_files(data, key, split)
        except UsageError:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(task_file(name, GLUE[key], files), sort_keys=False)
        (folder / f"wrinklefree_{name}.yaml").write_text(text, encoding="utf-8")
        written.append(f"wrinklefree_{name}")
    if not written:
        raise UsageError(f"no GLUE task in {', '.join(map(str, data))}; see docs/eval.md")
    return written


def task_file(name: str, task: GlueTask, files: Sequence[Path]) -> dict[str, Any]:
    """The settings of one task in lm-eval's words."""
    prompt = task.prompt
    for column in task.columns:
        # Jinja's trim is the strip() of data/glue.py.
        prompt = prompt.replace(f"{{{column}}}", f"{{{{{column}|trim}}}}")
    return {
        "task": f"wrinklefree_{name}",
        "tag": GROUP,
        "dataset_path": "parquet" if files[0].suffix == ".parquet" else "json",
        "dataset_kwargs": {"data_files": {"validation": [str(file.resolve()) for file in files]}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": prompt,
        "doc_to_choice": list(task.choices),
        "doc_to_target": "label",
        "target_delimiter": "",  # each choice begins with its own space
        "metric_list": [
            {"metric": metric, "aggregation": _AGGREGATIONS[metric], "higher_is_better": True}
            for metric in _METRICS.get(task.name, ("acc",))
        ],
        "metadata": {"version": 1},
    }
