"""The whole chain on a real trained model: the loss falls, and each hand-over loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wrinklefree.errors import UsageError, VerificationError
from wrinklefree.models.checkpoint import load_artifact
from wrinklefree.models.manifest import artifact_hash, read_manifest
from wrinklefree.models.surgery import get_lambda
from wrinklefree.training import continuity

Chain = dict[str, Path]
Metrics = Callable[..., list[dict[str, Any]]]
Run = Callable[..., Path]


@pytest.mark.parametrize("name", ["sft", "bitnet", "s2", "s3"])
def test_evaluation_improves(chain: Chain, read_metrics: Metrics, name: str) -> None:
    evals = [entry["cross_entropy"] for entry in read_metrics(chain[name], "eval")]
    assert len(evals) == 3  # steps 0, 8 and the end
    assert evals[-1] < evals[0] - 0.02


def test_the_ramp_ends_better_than_a_jump(chain: Chain, read_metrics: Metrics) -> None:
    evals = read_metrics(chain["s19"], "eval")
    assert evals[-1]["cross_entropy"] < evals[0]["cross_entropy_deployed"] - 0.5
    assert "cross_entropy_deployed" not in evals[-1]  # lambda is 1: it is the same number


def test_lambda_rises_in_stage_1_9_and_never_falls_again(
    chain: Chain, read_metrics: Metrics
) -> None:
    assert read_manifest(chain["s1"]).lam == 0.0
    lambdas = [e["lambda"] for name in ("s19", "s2", "s3") for e in read_metrics(chain[name])]
    assert lambdas == sorted(lambdas)
    assert (lambdas[0], lambdas[-1]) == (0.0, 1.0)
    assert get_lambda(load_artifact(chain["s3"]).model) == 1.0


def test_stage_1_computes_the_float_model(chain: Chain, stories: str) -> None:
    from wrinklefree.models.teacher import load_teacher

    quantized, (teacher, _) = load_artifact(chain["s1"]).model, load_teacher(stories)
    ids = torch.arange(3, 60)[None]
    assert torch.allclose(quantized(ids).logits, teacher(ids).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["sft", "bitnet", "s1", "s19", "s2", "s3"])
def test_continuity_record_holds_after_reload(chain: Chain, name: str) -> None:
    loaded = load_artifact(chain[name])
    recorded = loaded.manifest.metrics[continuity.METRIC]
    now = continuity.verify(loaded.model, recorded, name)
    assert now == pytest.approx(recorded["cross_entropy"], abs=1e-6)


def test_first_evaluation_of_a_stage_is_the_last_of_its_parent(
    chain: Chain, read_metrics: Metrics
) -> None:
    before = read_metrics(chain["s19"], "eval")[-1]["cross_entropy"]
    after = read_metrics(chain["s2"], "eval")[0]["cross_entropy"]
    assert after == pytest.approx(before, abs=1e-6)


def test_parents_are_recorded(chain: Chain) -> None:
    assert read_manifest(chain["s1"]).parent is None  # a plain directory
    for child, parent in (("s19", "s1"), ("s2", "s19"), ("s3", "s2")):
        assert read_manifest(chain[child]).parent == artifact_hash(chain[parent])


def test_the_manifest_tells_how_it_was_made(chain: Chain) -> None:
    manifest = read_manifest(chain["s3"])
    assert manifest.stage == "stage3_distill"
    assert manifest.subln == "subln"
    assert manifest.recipe["training"]["split_heads"] == 8
    assert manifest.metrics["steps"] == manifest.metrics["total_steps"] == 16
    assert not (chain["s3"] / "state").exists()


def test_every_stage_leaves_a_model_card(chain: Chain, read_metrics: Metrics) -> None:
    for name, directory in chain.items():
        card = (directory / "README.md").read_text()
        assert f"| stage | {read_manifest(directory).stage} |" in card
        # The chain began with a directory that has only a LICENSE file.
        assert "license_name: MIT License" in card
        if name == "s1":  # it has no training loop
            assert "tokens in this stage" not in card
        else:
            tokens = sum(entry["tokens"] for entry in read_metrics(directory))
            assert f"| tokens in this stage | {tokens:,} |" in card
    assert f"| teacher | {chain['sft']} |" in (chain["s3"] / "README.md").read_text()


def test_the_baseline_has_no_subln(chain: Chain) -> None:
    assert read_manifest(chain["bitnet"]).subln == "none"
    assert not any("sub_norm" in name for name in load_file(chain["bitnet"] / "model.safetensors"))


def test_lost_gains_break_continuity(chain: Chain, run: Run, corpus: str, tmp_path: Path) -> None:
    """The defect of a public predecessor: SubLN gains silently reset to 1 between stages."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in chain["s19"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    for name, tensor in tensors.items():
        if "sub_norm" in name:
            tensor.fill_(1.0)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VerificationError, match="not handed over intact"):
        run("stage2_pretrain", tmp_path / "o", f"model.path={broken}", f"data.path={corpus}")


def test_stages_refuse_the_wrong_kind_of_model(
    chain: Chain, run: Run, corpus: str, stories: str, tmp_path: Path
) -> None:
    data, out = f"data.path={corpus}", tmp_path / "o"
    for path in (stories, chain["sft"]):
        with pytest.raises(UsageError, match="needs the artifact of training=stage1_subln"):
            run("stage2_pretrain", out, f"model.path={path}", data)
    with pytest.raises(UsageError, match="ternary"):
        run("teacher_sft", out, f"model.path={chain['s3']}", data)
    with pytest.raises(UsageError, match=r"training\.teacher=DIR"):
        run("stage3_distill", out, f"model.path={chain['s2']}", data, "training.split_heads=8")
    assert not out.exists()


def test_damaged_record_is_a_format_error(chain: Chain) -> None:
    from wrinklefree.errors import FormatError

    model = load_artifact(chain["s1"]).model
    with pytest.raises(FormatError, match="damaged"):
        continuity.verify(model, json.loads('{"cross_entropy": 1.0}'), "runs/x")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_other_families_go_through(
    run: Run, random_models: dict[str, str], corpus: str, tmp_path: Path, family: str
) -> None:
    base, data = random_models[family], f"data.path={corpus}"
    s1 = run("stage1_subln", tmp_path / "s1", f"model.path={base}", data)
    heads = "training.split_heads=4"
    s3 = run(
        "stage3_distill",
        tmp_path / "s3",
        f"model.path={s1}",
        f"training.teacher={base}",
        "training.steps=3",
        "training.cache_teacher=false",
        heads,
        data,
    )
    assert read_manifest(s3).lam == 1.0
