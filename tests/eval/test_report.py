"""The table that people read and the object that programs read."""

from __future__ import annotations

import json

import numpy as np

from wrinklefree.eval.choices import ChoiceTask
from wrinklefree.eval.classification import accuracy
from wrinklefree.eval.estimates import Metric, proportion
from wrinklefree.eval.outcome import Counts, Outcome
from wrinklefree.eval.report import Report, TaskReport

TASK = ChoiceTask("sst2", "here.jsonl", (), baselines={"majority": {"acc": proportion(55, 100)}})
LABELS = [1] * 100


def outcome(num_right: int, truncated: int = 0) -> Outcome:
    given = [1] * num_right + [0] * (100 - num_right)
    return Outcome((accuracy(given, LABELS),), Counts(100, 5000, truncated, 0, 512))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_the_columns_of_lm_eval_first() -> None:
    report = Report("student", "torch", [TaskReport.of(TASK, outcome(88), None)])
    header, ruler, row, baseline = report.table()
    assert len({len(line) for line in (header, ruler, row, baseline)}) == 1
    # As lm_eval.utils.make_table writes it.
    names = ["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"]
    assert cells(header)[:9] == names
    # stderr: sqrt(.88 * .12 / 99), as lm-eval's mean_stderr
    expected = ["sst2", "1", "none", "0", "acc", "↑", "0.8800", "±", "0.0327"]
    assert cells(row) == [*expected, "0.8019 to 0.9300", "100"]
    assert cells(baseline)[2:7] == ["baseline: majority", "0", "acc", "↑", "0.5500"]


def test_a_teacher_adds_its_score_and_the_paired_delta() -> None:
    entry = TaskReport.of(TASK, outcome(88, truncated=3), outcome(90))
    report = Report("student", "engine", [entry], "teacher", "torch")
    header, _, row, baseline = map(cells, report.table())
    assert header[-3:] == ["Teacher", "Delta", "Delta 95 %"]
    assert row[-3:-1] == ["0.9000", "-0.0200"]
    low, high = (float(end) for end in row[-1].split(" to "))
    assert low < -0.02 < high <= 0
    assert baseline[-3:] == ["", "", ""]
    (note,) = report.notes()
    assert "3 inputs truncated" in note
    assert note.endswith(
        "teacher: context 512, 5000 tokens, 0 inputs truncated, 0 with begin token, "
        "no chat template"
    )
    found = json.loads(json.dumps(report.to_json()))
    assert found["teacher"] == "teacher"
    assert found["results"]["sst2"]["delta"]["acc"]["interval"] == "paired bootstrap"


def test_a_task_that_the_teacher_has_not_finished_has_no_delta() -> None:
    entries = [TaskReport.of(TASK, outcome(88), other) for other in (outcome(90), None)]
    lines = Report("student", "torch", entries, "teacher", "torch").table()
    assert len({len(line) for line in lines}) == 1
    assert [cells(line)[-2] for line in lines[2:]] == ["-0.0200", "", "", ""]


def test_zero_has_no_minus() -> None:
    tiny = Metric("nats", np.array([[1.0]]), lambda sums: sums[..., 0] - 1e-9)
    one = Metric("nats", np.array([[1.0]]), lambda sums: sums[..., 0])
    outcomes = [Outcome((metric,), Counts(1, 2, 0, 0, 8)) for metric in (tiny, one)]
    report = Report("student", "torch", [TaskReport.of(TASK, *outcomes)], "teacher", "torch")
    assert cells(report.table()[2])[-2:] == ["+0.0000", "N/A"]


def test_one_example_has_no_interval() -> None:
    metric = Metric("perplexity", np.array([[1.0, 2.0]]), lambda sums: sums[..., 0])
    single = Outcome((metric,), Counts(1, 2, 0, 0, 8))
    report = Report("student", "torch", [TaskReport.of(TASK, single, None)])
    assert report.table()[2].count("N/A") == 2
    (entry,) = json.loads(json.dumps(report.to_json(), allow_nan=False))["results"].values()
    # What was not measured is left out.
    assert list(entry) == ["data", "protocol", "counts", "metrics", "higher_is_better", "baselines"]
