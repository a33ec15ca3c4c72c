"""wf-train report: files that show the run, from finished runs and checkpoints; plain errors."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from wrinklefree.cli.train import main
from wrinklefree.models.checkpoint import load_artifact
from wrinklefree.models.decoder import decoder_layers
from wrinklefree.models.surgery import bit_linears
from wrinklefree.training.report_plots import names, series
from wrinklefree.training.weight_histograms import NUM_BINS, RANGE, weight_histograms

PNG = b"\x89PNG"
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def student(run: Run, stories: str, corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    s1 = run("stage1_subln", root / "s1", f"model.path={stories}", f"data.path={corpus}")
    return run(
        "stage3_distill",
        root / "s3",
        *(f"model.path={s1}", f"training.teacher={stories}", f"data.path={corpus}"),
        *("training.steps=6", "training.split_heads=8", "training.gamma=100"),
        *("training.lambda_ramp=0.5", "training.shares_every=1", "training.eval_every=2"),
        *("training.sample_every=3", "training.sample_prompts=['<b>Once']"),
    )


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_a_student(student: Path) -> None:
    result = report(student)
    assert result.exit_code == 0, result.output
    out = student.with_name("s3-report")
    assert result.stdout.strip() == str(out / "report.html")
    pictures = {"loss", "rates", "gradient", "shares", "latent", "codes"}
    assert {path.stem for path in out.glob("*.png")} == pictures
    assert all(path.read_bytes().startswith(PNG) for path in out.glob("*.png"))
    html = (out / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(pictures)
    assert "<b>&lt;b&gt;Once</b>" in html  # text of a model or user is never markup
    markdown = (out / "report.md").read_text()
    for word in ("stage3_distill: s3", "6 of 6", "![codes](codes.png)", "step 3", '"gamma": 100'):
        assert word in markdown


def test_a_teacher_has_no_codes(run: Run, stories: str, corpus: str, tmp_path: Path) -> None:
    given = (f"model.path={stories}", f"data.path={corpus}", "training.steps=1")
    out = run("teacher_sft", tmp_path / "sft", *given)
    assert report(out, "--out", tmp_path / "r").exit_code == 0
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        *("report.md", "report.html", "loss.png", "rates.png", "gradient.png", "latent.png")
    }


def test_a_choice_task_shows_its_accuracy(run: Run, stories: str, tmp_path: Path) -> None:
    line = '{{"prompt": "Tom and {}", "choices": ["the", "and"], "label": {}}}\n'
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(line.format(name, int(name > "M")) for name in "AVBWCXDYEZ" * 4))
    given = (f"model.path={stories}", f"data.path={rows}", "data.format=choice")
    out = run("teacher_sft", tmp_path / "sft", *given, "training.steps=1", "training.eval_every=1")
    assert report(out, "--out", tmp_path / "r").exit_code == 0
    assert (tmp_path / "r" / "accuracy.png").read_bytes().startswith(PNG)
    assert "| held-out accuracy | " in (tmp_path / "r" / "report.md").read_text()


def test_histograms_are_those_of_the_weights(student: Path) -> None:
    model = load_artifact(student).model
    histograms = weight_histograms(model)
    layers = decoder_layers(model)
    assert histograms.latent.shape == (len(layers), NUM_BINS)
    assert histograms.codes is not None
    for index, layer in enumerate(layers):
        codes = np.concatenate([m.ternary().flatten().numpy() for m in bit_linears(layer)])
        values = np.concatenate(
            [(m.weight / m.scale).detach().flatten() for m in bit_linears(layer)]
        )
        expected = [(codes == code).mean() for code in (-1, 0, 1)]
        assert histograms.codes[index] == pytest.approx(expected, abs=1e-6)
        inner = histograms.latent[index][NUM_BINS * 5 // 12 : NUM_BINS * 7 // 12].sum()
        assert inner == pytest.approx((np.abs(values) < 0.5).mean(), abs=2e-3)
        within = (np.abs(values) <= RANGE).mean()
        assert histograms.latent[index].sum() == pytest.approx(within, abs=1e-6)
        assert within < 1


def test_series_leave_out_steps_without_a_value() -> None:
    entries: list[dict[str, Any]] = [{"step": 0, "a": 1.0}, {"step": 1}, {"step": 2, "a": 3.0}]
    assert series(entries, "a") == ([0, 2], [1.0, 3.0])
    assert names([{"loss_b": 1, "loss": 2}, {"loss_a": 1}], "loss_") == ["loss_a", "loss_b"]


def test_a_line_cut_by_a_crash_is_no_matter_but_damage_is(student: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(student, run)
    log = run / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"kind": "tra')
    assert report(run).exit_code == 0
    log.write_text('{"kind": "tra\n' + whole)
    result = report(run, "--out", tmp_path / "no")
    assert (result.exit_code, "line 1 is damaged" in result.stderr) == (1, True)
    assert not (tmp_path / "no").exists()


def test_mistakes_are_one_line(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 0}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    for run, words in (
        (tmp_path / "none", "holds no metrics.jsonl"),
        (tmp_path / "young", "no checkpoint yet"),
        (tmp_path / "empty", "no training step yet"),
    ):
        result = report(run)
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert 'pip install "wrinklefree[plot]"' in report(student, "--out", tmp_path / "r").stderr
    assert not (tmp_path / "r").exists()
    assert report("--help").exit_code == 0
