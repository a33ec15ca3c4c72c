"""wf-train as a user meets it: help, dry run, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wrinklefree.cli.train import main
from wrinklefree.training.stages import STAGES


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_help_lists_stages_groups_and_examples() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for word in (*STAGES, "distributed", "training.gains_lr_multiplier", "Examples:"):
        assert word in result.output


def test_a_program_tells_nothing_but_its_own(stories: str, corpus: str, tmp_path: Path) -> None:
    """Libraries that are imported on the way (torchao by transformers) keep quiet."""
    command = (
        *(sys.executable, "-m", "wrinklefree.cli.train", "training=teacher_sft", "--dry-run"),
        *(f"model.path={stories}", f"data.path={corpus}", f"out={tmp_path}/o"),
    )
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("stage ")
    assert result.stderr == ""


def test_dry_run_prints_the_plan_and_writes_nothing(
    stories: str, corpus: str, tmp_path: Path
) -> None:
    settings = (
        "training=stage2_pretrain",
        f"model.path={stories}",
        f"data.path={corpus}",
        "data.max_length=64",
        "training.batch_size=4",
        "training.epochs=2",
        f"out={tmp_path}/o",
    )
    result = invoke(*settings, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["parameters"] == 260_032
    assert plan["steps"] == -(-2 * -(-plan["rows"] // 4) // 1)
    assert plan["tokens"] == pytest.approx(2 * plan["tokens_per_epoch"], rel=0.1)
    assert plan["memory_bytes_estimate"] > 4 * 4 * 260_032
    assert not (tmp_path / "o").exists()
    assert "MB" in invoke(*settings, "--dry-run").output


def test_a_run_prints_its_summary(stories: str, corpus: str, tmp_path: Path) -> None:
    result = invoke(
        "training=teacher_sft",
        f"model.path={stories}",
        f"data.path={corpus}",
        "data.max_length=32",
        "training.steps=2",
        f"out={tmp_path}/o",
        "--json",
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["stage"] == "teacher_sft"
    assert summary["metrics"]["steps"] == 2
    assert (tmp_path / "o" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("training=stage9",), "allowed are"),
        (("training=teacher_sft", "traning.lr=1"), "did you mean"),
        (("training=teacher_sft", "model.path=/nowhere", "data.path=x", "out=o"), "/nowhere"),
        (("--dry-rn",), "did you mean '--dry-run'"),
        ((), "name the stage"),
    ],
    ids=["stage", "key", "model", "option", "nothing"],
)
def test_mistakes_are_one_line_and_exit_2(arguments: tuple[str, ...], words: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


def test_torchrun_is_refused_by_name(
    stories: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = invoke(
        "training=teacher_sft", f"model.path={stories}", f"data.path={corpus}", f"out={tmp_path}/o"
    )
    assert result.exit_code == 2
    assert "distributed=single" in result.stderr
