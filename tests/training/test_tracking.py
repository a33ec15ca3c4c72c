"""Trackers get what the log gets; one that is not installed is named before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wrinklefree.configs.compose import compose_run
from wrinklefree.errors import UsageError
from wrinklefree.training.metrics import MetricsLog
from wrinklefree.training.tracking import open_trackers

Run = Callable[..., Path]
Metrics = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def given(random_models: dict[str, str], corpus: str) -> tuple[str, ...]:
    return (
        *(f"model.path={random_models['llama']}", f"data.path={corpus}", "training.steps=4"),
        *("training.sample_every=4", "training.sample_prompts=[Hello]"),
    )


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(
    run: Run, given: tuple[str, ...], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r'pip install "wrinklefree\[track\]"'):
        run("teacher_sft", tmp_path / "o", *given, f"tracking=[{name}]")
    assert not (tmp_path / "o").exists()


def test_tensorboard_reads_what_was_logged(
    run: Run, given: tuple[str, ...], read_metrics: Metrics, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    save = "training.save_every=2"  # a checkpoint replaces `out`, not the event files
    out = run("teacher_sft", tmp_path / "o", *given, save, "tracking=[tensorboard]")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "o"))
    events.Reload()
    for kind, name in (("train", "loss"), ("train", "mfu"), ("eval", "cross_entropy")):
        scalars = [(event.step, event.value) for event in events.Scalars(f"{kind}/{name}")]
        entries = [(e["step"], e[name]) for e in read_metrics(out, kind)]
        assert scalars == [(step, pytest.approx(value, rel=1e-6)) for step, value in entries]
    assert "sample/0/text_summary" in events.Tags()["tensors"]


def test_a_continued_run_keeps_what_was_measured_at_its_checkpoint(
    given: tuple[str, ...], tmp_path: Path
) -> None:
    """The run dies after step 3; the evaluation and samples of step 2 are not made again."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "o"
    config = compose_run(["training=teacher_sft", f"out={out}", *given, "tracking=[tensorboard]"])

    def log(start_step: int) -> MetricsLog:
        trackers = open_trackers(config, start_step)
        return MetricsLog(
            out, stage="teacher_sft", total_steps=4, start_step=start_step, trackers=trackers
        )

    with log(0) as metrics:
        for step in range(4):
            if step % 2 == 0:
                metrics.write("eval", step, cross_entropy=9.0 - step)
                metrics.write_samples(step, [{"prompt": "Hello", "text": f" {step}"}])
            metrics.write("train", step, loss=5.0 - step)
    with log(2) as metrics:
        for step in (2, 3):
            metrics.write("train", step, loss=4.0 - step)

    events = EventAccumulator(str(tmp_path / "tensorboard" / "o"))
    events.Reload()
    scalars = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in ("eval/cross_entropy", "train/loss")
    }
    assert scalars["eval/cross_entropy"] == [(0, 9.0), (2, 7.0)]
    assert scalars["train/loss"] == [(0, 5.0), (1, 4.0), (2, 2.0), (3, 1.0)]
    assert [event.step for event in events.Tensors("sample/0/text_summary")] == [0, 2]


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        with MetricsLog(tmp_path, stage="teacher_sft", total_steps=4, start_step=0) as metrics:
            metrics.write("eval", 0, cross_entropy=9.0)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_wandb_keeps_a_run_offline(
    run: Run, given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run("teacher_sft", tmp_path / "o", *given, "tracking=[wandb]")
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert record.stat().st_size > 1000
