"""Trackers get what the log gets; one that is not installed is named before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wrinklefree.errors import UsageError

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


def test_wandb_keeps_a_run_offline(
    run: Run, given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run("teacher_sft", tmp_path / "o", *given, "tracking=[wandb]")
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert record.stat().st_size > 1000
