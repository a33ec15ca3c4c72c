"""Two processes of torchrun train what one trains, stop together, and hand over to one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from wrinklefree.configs.config import DistributedConfig, GradientConfig
from wrinklefree.errors import UsageError
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training.distributed import World, open_world
from wrinklefree.training.finite import NonFiniteError
from wrinklefree.training.sharding import shard

Run = Callable[..., Path]
ReadMetrics = Callable[..., list[dict[str, Any]]]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
WF_TRAIN = ["--no-python", sys.executable, "-m", "wrinklefree.cli.train"]
SETTINGS = ("data.max_length=32", "training.batch_size=4", "data.eval_rows=4")
# A small rate in float32: a large one drives runs that differ in the last bit apart.
STEPS = (
    *("training.steps=20", "training.accumulation=2"),
    *("training.lr=1e-4", "training.dtype=float32"),
)


def start(kind: str, out: Path, *settings: str) -> subprocess.Popen[str]:
    command = [*TORCHRUN, *WF_TRAIN, f"out={out}", f"distributed={kind}", *SETTINGS, *settings]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def stage(chain: dict[str, Path], stories: str, corpus: str) -> tuple[str, ...]:
    """Distillation, so that every loss has its part: cross-entropy and the teacher's logits."""
    return (
        "training=stage2_pretrain",
        f"model.path={chain['s19']}",
        f"data.path={corpus}",
        f"training.teacher={stories}",
        "training.kd_weight=0.5",
        *STEPS,
    )


@pytest.fixture(scope="module")
def alone(run: Run, stage: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("stage2_pretrain", tmp_path_factory.mktemp("alone") / "out", *stage[1:])


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_trains(
    kind: str, alone: Path, stage: tuple[str, ...], tmp_path: Path, read_metrics: ReadMetrics
) -> None:
    together = start(kind, tmp_path / "out", *stage)
    printed, told = together.communicate(timeout=300)
    assert together.returncode == 0, told
    assert printed.count("stage2_pretrain") == 1  # one speaks for both
    one, two = read_metrics(alone), read_metrics(tmp_path / "out")
    assert len(two) == 20
    for before, now in zip(one, two, strict=True):
        assert (now["tokens"], now["labels"]) == (before["tokens"], before["labels"])
        assert now["loss"] == pytest.approx(before["loss"], rel=1e-4)
        assert now["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-4)
    weights = [load_file(out / "model.safetensors") for out in (alone, tmp_path / "out")]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_both_stop_at_a_signal_and_one_goes_on(
    kind: str,
    alone: Path,
    run: Run,
    stage: tuple[str, ...],
    tmp_path: Path,
    read_metrics: ReadMetrics,
) -> None:
    out = tmp_path / "out"
    together = start(kind, out, *stage)
    deadline = time.monotonic() + 240
    while not (out / "metrics.jsonl").is_file() or len(read_metrics(out)) < 3:
        assert together.poll() is None, together.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    together.send_signal(signal.SIGTERM)
    together.communicate(timeout=120)
    assert together.returncode != 0
    done = len(read_metrics(out))
    assert 3 <= done < 20
    assert (out / "state").is_dir()
    run("stage2_pretrain", out, *stage[1:])
    assert not (out / "state").exists()
    losses = [entry["loss"] for entry in read_metrics(out)]
    expected = [entry["loss"] for entry in read_metrics(alone)]
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_loss_that_is_not_finite_in_one_process_stops_both(
    kind: str, run: Run, stories: str, tmp_path: Path
) -> None:
    """One row in 48 has a word whose embedding is NaN: the error is the same with two processes,
    and names the one that had the row."""
    model, tokenizer = load_teacher(stories)
    rare = tokenizer.encode("~", add_special_tokens=False)[-1]
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[rare] = torch.nan
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = [f'{{"prompt": "Tom has {i}", "completion": " cats"}}\n' for i in range(48)]
    lines[17] = lines[17].replace("cats", "~ cats")
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    stage = (
        "training=bitnet_sft",
        f"model.path={tmp_path / 'model'}",
        *(f"data.path={tmp_path / 'rows.jsonl'}", "data.format=sft", "data.eval_rows=0"),
        *("training.batch_size=4", "training.steps=6", "training.accumulation=2"),
        *("training.save_every=1", "training.dtype=float32"),
    )
    with pytest.raises(NonFiniteError, match=r"embed_tokens is the first .*rows .*\b17\b") as alone:
        run("bitnet_sft", tmp_path / "alone", *stage[1:])
    together = start(kind, tmp_path / "together", *stage)
    _, told = together.communicate(timeout=300)
    assert together.returncode != 0
    assert re.search(rf"rank [01]: {re.escape(str(alone.value))}", told), told
    step = int(str(alone.value).split(":")[0].removeprefix("step "))
    for out in ("alone", "together"):
        assert (tmp_path / out / "state").is_dir() == (step > 0)


AGREEMENTS = """
import logging, sys, torch
from wrinklefree.configs.config import DistributedConfig
from wrinklefree.training.distributed import open_world
from wrinklefree.training.finite import NonFiniteError

with open_world(DistributedConfig(kind="ddp")) as world:
    assert world.sum([1.0, world.rank]) == [2.0, 1.0]
    assert world.any(world.rank == 1) and not world.any(False)
    parameter = torch.nn.Parameter(torch.full((3,), float(world.rank)))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0]) * (world.rank + 1)
    world.sum_gradients([parameter])
    assert parameter.grad.tolist() == [3.0, 6.0, 9.0]
    world.copy_from_main([parameter])
    assert parameter.tolist() == [0.0, 0.0, 0.0]
    largest = torch.tensor([float(world.rank), -float(world.rank)])
    world.keep_largest([largest])
    assert largest.tolist() == [1.0, 0.0]
    world.raise_together(None)
    try:
        world.raise_together(NonFiniteError("step 3: bad") if world.rank == 1 else None)
    except NonFiniteError as error:
        sys.stdout.write(f"{world.rank} {error}\\n")  # at once: both write to one pipe
"""


def test_processes_agree(tmp_path: Path) -> None:
    script = tmp_path / "agree.py"
    script.write_text(AGREEMENTS)
    done = subprocess.run(
        [*TORCHRUN, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 rank 1: step 3: bad", "1 rank 1: step 3: bad"]


def test_settings_that_do_not_fit(
    run: Run, stories: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="torchrun"), open_world(DistributedConfig(kind="ddp")):
        pass
    with pytest.raises(UsageError, match="qk_clip needs whole parameters"):
        shard(load_teacher(stories)[0], GradientConfig(stage="stage2_pretrain", qk_clip=100.0))
    with pytest.raises(UsageError, match="multiple of 2"):
        World(0, 2).share(3)
    with pytest.raises(UsageError, match="nothing to divide"):
        run(
            "stage1_subln",
            tmp_path / "s1",
            f"model.path={stories}",
            f"data.path={corpus}",
            "distributed=ddp",
        )
