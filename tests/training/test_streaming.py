"""wf-train on a mixture: the plan, a run, an interruption, and what a stream cannot do."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from wrinklefree.cli.train import main
from wrinklefree.data.workers import WorkerError
from wrinklefree.errors import UsageError
from wrinklefree.models.manifest import read_manifest
from wrinklefree.training.metrics import MetricsLog

Metrics = Callable[..., list[dict[str, Any]]]
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def settings(
    chain: dict[str, Path], corpus: str, choices: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ...]:
    """Stage 2 of the real tiny model on stories, one a record, and SST-2 answers."""
    stories = tmp_path_factory.mktemp("stories") / "stories.jsonl"
    texts = Path(corpus).read_text(encoding="utf-8").split("\n\n")
    stories.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts if text.strip()))
    mixture = f"[{{path:{stories},weight:3}},{{path:{choices},format:choice}}]"
    return (
        f"model.path={chain['s19']}",
        *("data=mixture", f"data.mixture={mixture}"),
        *(f"data.eval_path={corpus}", "training.steps=12", "training.eval_every=6"),
    )


def on_show(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something after a step."""
    original = MetricsLog.show

    def show(self: MetricsLog, at: int, **values: float) -> None:
        original(self, at, **values)
        if at == step:
            act()

    monkeypatch.setattr(MetricsLog, "show", show)


def test_dry_run_prints_the_shares(settings: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ["training=stage2_pretrain", *settings, f"out={tmp_path}/o", "--dry-run"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert [source.split(" ")[0] for source in plan["sources"]] == ["75.0%", "25.0%"]
    assert plan["steps"] == 12
    assert 0 < plan["tokens"] <= 12 * 8 * 512
    text = CliRunner().invoke(main, arguments).output
    assert sum(line.startswith("sources") for line in text.splitlines()) == 2
    assert not (tmp_path / "o").exists()
    assert not multiprocessing.active_children()


def test_an_interrupted_run_continues_with_other_workers(
    run: Run,
    settings: tuple[str, ...],
    tmp_path: Path,
    read_metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run("stage2_pretrain", tmp_path / "a", *settings, "data.workers=0")
    with monkeypatch.context() as patched:
        on_show(patched, 4, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run("stage2_pretrain", tmp_path / "b", *settings, "data.workers=2")
    assert not multiprocessing.active_children()
    parts = run("stage2_pretrain", tmp_path / "b", *settings, "data.workers=1")

    ours, theirs = read_metrics(parts), read_metrics(whole)
    assert len(ours) == 12
    assert [entry["loss"] for entry in ours] == [entry["loss"] for entry in theirs]
    assert read_metrics(parts, "eval") == read_metrics(whole, "eval")
    assert all(0 <= entry["data_wait"] <= 1 and entry["tokens_per_s"] > 0 for entry in ours)
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(parts / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    assert read_manifest(parts).data_position["processes"][0]["row"] == 12 * 4


def test_a_dead_worker_keeps_the_checkpoint(
    run: Run, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    given = (*settings, "data.workers=1", "training.steps=2000", "training.save_every=2")
    with monkeypatch.context() as patched:
        on_show(patched, 3, kill)
        with pytest.raises(WorkerError, match="died"):
            run("stage2_pretrain", tmp_path / "o", *given)
    assert (tmp_path / "o" / "state" / "progress.json").is_file()


def test_streams_need_steps_and_cannot_be_cached(
    run: Run, settings: tuple[str, ...], chain: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"training\.steps=N"):
        run("stage2_pretrain", tmp_path / "o", *settings, "training.steps=null")
    teacher = (f"training.teacher={chain['sft']}", "training.split_heads=8")
    with pytest.raises(UsageError, match="cache_teacher=true keeps"):
        run("stage3_distill", tmp_path / "o", *settings, *teacher, "training.cache_teacher=true")


def test_every_stage_takes_a_stream(
    run: Run, stories: str, corpus: str, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    stream = (*settings[1:], "data.workers=0")
    s1 = run("stage1_subln", tmp_path / "s1", f"model.path={stories}", *stream[:2], stream[-1])
    calibrated = ("training.calibration_rows=4", f"training.teacher={stories}")
    s19 = (f"model.path={s1}", *stream, *calibrated, "training.steps=2")
    assert read_manifest(run("stage1_9_layerwise", tmp_path / "s19", *s19)).lam == 1.0
