"""Turning any training knob changes the run: the losses, or what is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wrinklefree.configs.config import GradientConfig, SublnConfig
from wrinklefree.models.checkpoint import load_artifact

Run = Callable[..., Path]

BASE = (
    "training.steps=4",
    "training.lr=1e-2",
    "training.split_heads=4",
    "training.gamma=10",
    "training.layerwise_weight=0.5",
    "training.relation_layers=[1]",
    "training.kd_weight=1",
    "training.warmup=0.25",
    "training.schedule=wsd",
    "training.weight_decay=0.1",
    "training.lambda_ramp=0.5",
    "training.cache_teacher=false",
    "training.eval_every=2",
    "training.dtype=float32",  # also where "auto" would be bfloat16
)

# Changed value of each knob. Left out: the stage's name; where the teacher comes from (chain and
# hub tests); cache_teacher (teacher-cache tests); save_every (resume tests); momentum (optimizer
# tests); zclip (clipping tests); qk_clip (QK-clip tests); activation_checkpointing and compile
# (compute tests); peak_tflops (throughput tests); shares_every (gradient-share tests); sample_*
# (sample tests).
CHANGES = {
    "steps": "5",
    "batch_size": "3",
    "accumulation": "2",
    "lr": "2e-2",
    "gains_lr_multiplier": "3",
    "schedule": "cosine",
    "warmup": "0",
    "decay": "0.7",
    "final_lr": "0.5",
    "weight_decay": "0",
    "weight_decay_until": "0.5",
    "optimizer": "muon",
    "beta2": "0.9",
    "max_grad_norm": "0.01",
    "freeze": "[embed]",
    "calibration_rows": "4",
    "lambda_ramp": "0",
    "ce_weight": "0.5",
    "kd_weight": "3",
    "kd_tau": "1",
    "kd_positions": "all",
    "gamma": "20",
    "relation_layers": "[0]",
    "split_heads": "2",
    "relation_normalisation": "mean",
    "layerwise_weight": "1",
    "layer_weighting": "late",
    "int8_grad": "true",
    "seed": "7",
    "eval_every": "1",
    "dtype": "bfloat16",
}
ELSEWHERE = {
    *("stage", "teacher", "teacher_revision", "cache_teacher", "save_every", "epochs"),
    *("momentum", "zclip", "zclip_warmup", "qk_clip"),
    *("activation_checkpointing", "compile", "peak_tflops", "shares_every"),
    *("sample_every", "sample_prompts", "sample_tokens"),
}


def test_every_knob_is_turned_somewhere() -> None:
    assert {
        field.name for field in dataclasses.fields(GradientConfig)
    } == CHANGES.keys() | ELSEWHERE


@pytest.fixture(scope="module")
def trace(
    run: Run,
    random_models: dict[str, str],
    choices: str,
    read_metrics: Callable[..., list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., list[list[float]]]:
    root = tmp_path_factory.mktemp("knobs")
    data = (f"data.path={choices}", "data.format=choice", "data.max_length=64", "data.limit=60")
    parent = run("stage1_subln", root / "s1", f"model.path={random_models['llama']}", *data)

    def trace(name: str, *settings: str) -> list[list[float]]:
        teacher = f"training.teacher={random_models['llama']}"
        given = (f"model.path={parent}", teacher, *data, *BASE, *settings)
        out = run("stage3_distill", root / name, *given)
        train = [[entry["loss"], entry["grad_norm"]] for entry in read_metrics(out)]
        return [*train, *([e["step"], e["cross_entropy"]] for e in read_metrics(out, "eval"))]

    return trace


@pytest.fixture(scope="module")
def base_trace(trace: Callable[..., list[list[float]]]) -> list[list[float]]:
    return trace("base")


def test_the_same_settings_give_the_same_losses(
    trace: Callable[..., list[list[float]]], base_trace: list[list[float]]
) -> None:
    assert trace("again") == base_trace


@pytest.mark.parametrize("knob", CHANGES)
def test_turning_a_knob_changes_the_run(
    trace: Callable[..., list[list[float]]], base_trace: list[list[float]], knob: str
) -> None:
    assert trace(knob, f"training.{knob}={CHANGES[knob]}") != base_trace


def test_epochs_decide_the_steps(
    run: Run, random_models: dict[str, str], corpus: str, tmp_path: Path
) -> None:
    given = (
        f"model.path={random_models['llama']}",
        f"data.path={corpus}",
        "training.batch_size=64",
    )
    one = run("teacher_sft", tmp_path / "one", *given, "training.epochs=1")
    two = run("teacher_sft", tmp_path / "two", *given, "training.epochs=2")
    steps = [load_artifact(out).manifest.metrics["total_steps"] for out in (one, two)]
    assert steps[1] == 2 * steps[0] > 0


def test_stage_1_knobs_change_the_gains(
    run: Run, random_models: dict[str, str], corpus: str, tmp_path: Path
) -> None:
    changes = {
        "calibration": "unit",
        "calibration_batches": "1",
        "batch_size": "2",
        "seed": "3",
    }
    fields = {field.name for field in dataclasses.fields(SublnConfig)}
    assert changes.keys() == fields - {"stage"}

    def gains(name: str, *settings: str) -> list[float]:
        given = (f"model.path={random_models['llama']}", f"data.path={corpus}", *settings)
        model = load_artifact(run("stage1_subln", tmp_path / name, *given)).model
        norms = [p for n, p in model.named_parameters() if "sub_norm" in n]
        return [value for gain in norms for value in gain.tolist()]

    base = gains("base")
    for knob, value in changes.items():
        assert gains(knob, f"training.{knob}={value}") != base, knob
    assert len(gains("none", "model.subln=none")) == 0
