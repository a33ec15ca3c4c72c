"""A stopped run continues exactly; a finished one is not done twice; other settings are refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from wrinklefree.cli import convert, serve
from wrinklefree.cli import eval as evaluate
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.training import checkpointing
from wrinklefree.training.metrics import MetricsLog
from wrinklefree.training.trainer import Trainer

Metrics = Callable[..., list[dict[str, Any]]]
Run = Callable[..., Path]


def settings(base: str, parent: Path, corpus: str) -> tuple[str, ...]:
    return (
        f"model.path={parent}",
        f"training.teacher={base}",
        f"data.path={corpus}",
        "training.steps=12",
        "training.lambda_ramp=0.5",
        "training.split_heads=4",
        "training.gamma=10",
        "training.eval_every=4",
    )


@pytest.fixture(scope="module")
def parent(
    run: Run, random_models: dict[str, str], corpus: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("resume") / "s1"
    return run("stage1_subln", out, f"model.path={random_models['llama']}", f"data.path={corpus}")


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, signal.Signals], None]:
    """Send this process a signal while step `step` is being logged."""

    def arm(step: int, number: signal.Signals) -> None:
        original = MetricsLog.show

        def show(self: MetricsLog, at: int, **values: float) -> None:
            original(self, at, **values)
            if at == step:
                signal.raise_signal(number)

        monkeypatch.setattr(MetricsLog, "show", show)

    yield arm
    monkeypatch.undo()


def losses(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("step", "loss", "loss_kd", "loss_relation", "grad_norm", "grad_limit", "lr", "lambda")
    return [tuple(entry.get(key) for key in keys) for entry in entries]


# With these, what a step does depends on the steps before it and on more than AdamW's moments.
MUON = (
    *("training.optimizer=muon", "training.zclip=0.2", "training.zclip_warmup=2"),
    *("training.max_grad_norm=100", "training.qk_clip=0.01", "training.weight_decay=0.1"),
)


@pytest.mark.parametrize(
    ("number", "extra"),
    [(signal.SIGTERM, ()), (signal.SIGINT, MUON)],
    ids=["SIGTERM", "Ctrl-C, Muon"],
)
def test_an_interrupted_run_continues_bit_for_bit(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    read_metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: Callable[[int, signal.Signals], None],
    number: signal.Signals,
    extra: tuple[str, ...],
) -> None:
    given = (*settings(random_models["llama"], parent, corpus), *extra)
    whole = run("stage3_distill", tmp_path / "a" / "whole", *given)

    parts = tmp_path / "b" / "parts"
    with monkeypatch.context():
        stop_at(3, number)
        with pytest.raises(KeyboardInterrupt):
            run("stage3_distill", parts, *given)
        assert (parts / "state" / "progress.json").is_file()
    monkeypatch.undo()
    run("stage3_distill", parts, *given)

    assert losses(read_metrics(parts)) == losses(read_metrics(whole))
    assert read_metrics(parts, "eval") == read_metrics(whole, "eval")
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(parts / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    assert not (parts / "state").exists()


def test_a_stop_does_not_wait_for_the_whole_step_and_a_second_sigterm_not_for_nothing(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    read_metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """int8_grad draws random numbers in the backward pass: those of the dropped micro-batches are
    drawn again."""
    given = (
        *settings(random_models["llama"], parent, corpus),
        *("training.accumulation=3", "training.int8_grad=true", "training.lambda_ramp=0"),
        *("data.max_length=32", "training.batch_size=2"),
    )
    whole = run("stage3_distill", tmp_path / "whole", *given)
    forward_passes = 0
    original_terms, original_write = Trainer._terms, checkpointing.write_artifact

    def terms(self: Trainer, *args: Any) -> Any:
        nonlocal forward_passes
        forward_passes += 1
        if forward_passes == 3 * 5 + 2:
            signal.raise_signal(signal.SIGTERM)
        return original_terms(self, *args)

    def write(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)  # torchrun and schedulers repeat it
        return original_write(*args)

    parts = tmp_path / "parts"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_terms", terms)
        patched.setattr(checkpointing, "write_artifact", write)
        with pytest.raises(KeyboardInterrupt):
            run("stage3_distill", parts, *given)
    assert forward_passes == 3 * 5 + 2
    assert json.loads((parts / "state" / "progress.json").read_text())["step"] == 5

    with monkeypatch.context() as patched:
        patched.setattr(checkpointing, "write_artifact", write)  # and during the last save
        run("stage3_distill", parts, *given)
    assert losses(read_metrics(parts)) == losses(read_metrics(whole))
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(parts / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_a_killed_run_continues_from_its_last_checkpoint_bit_for_bit(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    read_metrics: Metrics,
) -> None:
    given = (
        *settings(random_models["llama"], parent, corpus),
        *("training=stage3_distill", "training.steps=150", "training.save_every=5"),
        *("data.max_length=32", "training.batch_size=4", "data.eval_rows=4"),
    )
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "wrinklefree.cli.train", f"out={out}", *given],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as this process does
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120

    def num_logged() -> int:
        try:
            return len(read_metrics(out))
        except FileNotFoundError:  # also for a moment while a checkpoint takes the last one's place
            return 0

    while num_logged() < 12:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert (out / "state" / "progress.json").is_file()

    run("stage3_distill", out, *given)
    whole = run("stage3_distill", tmp_path / "whole", *given)
    assert losses(read_metrics(out)) == losses(read_metrics(whole))
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_solved_weights_are_not_solved_again(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    read_metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: Callable[[int, signal.Signals], None],
) -> None:
    given = (
        *(f"model.path={parent}", f"training.teacher={random_models['llama']}"),
        *(f"data.path={corpus}", "training.steps=6", "training.calibration_rows=8"),
    )
    whole = run("stage1_9_layerwise", tmp_path / "whole", *given)
    parts = tmp_path / "parts"
    with monkeypatch.context():
        stop_at(2, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run("stage1_9_layerwise", parts, *given)
    monkeypatch.undo()
    run("stage1_9_layerwise", parts, *given)

    assert losses(read_metrics(parts)) == losses(read_metrics(whole))
    assert {entry["lambda"] for entry in read_metrics(parts)} == {1.0}
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(parts / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_a_crash_goes_back_to_the_last_checkpoint(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    read_metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = (*settings(random_models["llama"], parent, corpus), "training.save_every=4")
    whole = run("stage3_distill", tmp_path / "whole", *given)
    original = MetricsLog.show

    def die(self: MetricsLog, at: int, **values: float) -> None:
        original(self, at, **values)
        if at == 6:
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(MetricsLog, "show", die)
        with pytest.raises(MemoryError):
            run("stage3_distill", tmp_path / "parts", *given)
    run("stage3_distill", tmp_path / "parts", *given)
    assert losses(read_metrics(tmp_path / "parts")) == losses(read_metrics(whole))


def test_a_death_while_the_metrics_are_cut_costs_no_metrics(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    read_metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = (*settings(random_models["llama"], parent, corpus), "training.steps=2")
    out = tmp_path / "o"
    out.mkdir()
    entry = {"kind": "train", "stage": "stage3_distill", "step": 0, "loss": 1.5}
    (out / "metrics.jsonl").write_text(json.dumps(entry) + "\n")

    def die(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(MemoryError):
            run("stage3_distill", out, *given)
    assert read_metrics(out) == [entry]
    run("stage3_distill", out, *given)
    assert len(read_metrics(out)) == 2
    assert sorted(path.name for path in out.glob(".*")) == []


def test_a_finished_run_is_not_repeated(
    run: Run, random_models: dict[str, str], parent: Path, corpus: str, tmp_path: Path
) -> None:
    given = (*settings(random_models["llama"], parent, corpus), "training.steps=1")
    out = run("stage3_distill", tmp_path / "o", *given)
    before = (out / "wrinklefree.json").stat().st_mtime_ns
    run("stage3_distill", out, *given)
    assert (out / "wrinklefree.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"training\.lr was 5e-05, now 0\.001.*resume=never"):
        run("stage3_distill", out, *given, "training.lr=1e-3")
    run("stage3_distill", out, *given, "training.lr=1e-3", "resume=never")
    assert (out / "wrinklefree.json").stat().st_mtime_ns != before


def flip_byte(path: Path, at: int) -> None:
    """Another byte, the same size."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("what", ["data", "eval", "teacher"])
def test_other_files_at_the_same_paths_are_told(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    stop_at: Callable[[int, signal.Signals], None],
    is_finished: bool,
    what: str,
) -> None:
    paths = {name: tmp_path / name for name in ("data", "eval", "teacher")}
    for name in ("data", "eval"):
        paths[name].mkdir()
        shutil.copy(corpus, paths[name] / "a.txt")
    shutil.copytree(random_models["llama"], paths["teacher"])
    given = (
        *settings(str(paths["teacher"]), parent, str(paths["data"])),
        *(f"data.eval_path={paths['eval']}", "training.steps=4"),
    )
    out = tmp_path / "o"
    if is_finished:
        run("stage3_distill", out, *given)
    else:
        stop_at(1, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            run("stage3_distill", out, *given)
    if what == "teacher":
        weights = paths[what] / "model.safetensors"
        flip_byte(weights, weights.stat().st_size - 7)
    else:
        flip_byte(paths[what] / "a.txt", 100)
    with pytest.raises(UsageError, match=rf"the files of {paths[what]} have changed.*resume=never"):
        run("stage3_distill", out, *given)


def test_a_finished_run_does_not_need_its_data(
    run: Run, random_models: dict[str, str], corpus: str, tmp_path: Path
) -> None:
    data = Path(shutil.copy(corpus, tmp_path / "a.txt"))
    given = (f"model.path={random_models['llama']}", f"data.path={data}")
    out = run("stage1_subln", tmp_path / "o", *given)
    data.unlink()
    run("stage1_subln", out, *given)


def test_a_run_that_was_killed_between_the_renames_is_found(
    run: Run, random_models: dict[str, str], parent: Path, corpus: str, tmp_path: Path
) -> None:
    given = (*settings(random_models["llama"], parent, corpus), "training.steps=1")
    out = run("stage3_distill", tmp_path / "o", *given)
    written = (out / "wrinklefree.json").stat().st_mtime_ns
    stage = tmp_path / ".o.staged-x"
    (stage / "old").mkdir(parents=True)
    out.rename(stage / "new")
    run("stage3_distill", out, *given)
    assert (out / "wrinklefree.json").stat().st_mtime_ns == written
    assert not stage.exists()


@pytest.fixture
def unfinished(
    run: Run,
    random_models: dict[str, str],
    parent: Path,
    corpus: str,
    tmp_path: Path,
    stop_at: Callable[[int, signal.Signals], None],
) -> Path:
    """A run that was stopped after its ramp: only `state/` tells it from a finished one."""
    given = settings(random_models["llama"], parent, corpus)
    stop_at(8, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run("stage3_distill", tmp_path / "o", *given)
    return tmp_path / "o"


def test_no_other_command_takes_an_unfinished_run(unfinished: Path, corpus: str) -> None:
    ppl = (unfinished, "--tasks", "ppl", "--data", corpus, "--limit", 1, "--context", 64)
    commands: list[tuple[click.Command, tuple[object, ...]]] = [
        (convert.main, (unfinished, unfinished / "a.gguf")),
        (evaluate.main, ppl),
        (evaluate.main, (*ppl, "--backend", "engine")),
        (serve.main, (unfinished, "--port", 0)),
    ]

    def outcome(command: click.Command, arguments: tuple[object, ...]) -> tuple[int, str]:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        return result.exit_code, result.stderr

    complaint = (
        f"error: {unfinished} holds an unfinished training run (state/ is there): give the "
        "wf-train command that made it again, it continues\n"
    )
    for command, arguments in commands:
        assert outcome(command, arguments) == (1, complaint)
    shutil.rmtree(unfinished / "state")
    for command, arguments in commands[:-1]:
        assert outcome(command, arguments)[0] == 0


@pytest.mark.parametrize("size", [0, 20, 5000])
def test_damaged_moments_are_told(
    unfinished: Path, run: Run, random_models: dict[str, str], parent: Path, corpus: str, size: int
) -> None:
    (moments,) = (unfinished / "state" / "optimizer").iterdir()
    os.truncate(moments, size)
    given = settings(random_models["llama"], parent, corpus)
    with pytest.raises(FormatError, match=r"optimizer is damaged .*resume=never"):
        run("stage3_distill", unfinished, *given)


def test_moments_of_another_model_are_told(
    unfinished: Path, run: Run, random_models: dict[str, str], parent: Path, corpus: str
) -> None:
    (moments,) = (unfinished / "state" / "optimizer").iterdir()
    tensors = load_file(moments)
    tensors["exp_avg.some.other.weight"] = torch.zeros(2)
    save_file(tensors, moments)
    given = settings(random_models["llama"], parent, corpus)
    with pytest.raises(FormatError, match=r"another model: .*some\.other\.weight"):
        run("stage3_distill", unfinished, *given)


def test_an_unfinished_run_is_no_parent(
    run: Run, unfinished: Path, corpus: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="interrupted run"):
        run("stage2_pretrain", tmp_path / "p", f"model.path={unfinished}", f"data.path={corpus}")


def test_other_content_at_out_is_left_alone(
    run: Run, random_models: dict[str, str], corpus: str, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="not an artifact"):
        run("teacher_sft", tmp_path, f"model.path={random_models['llama']}", f"data.path={corpus}")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
