"""Two processes of torchrun train what one trains, stop together, and hand over to one."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from wrinklefree.configs.compose import compose_run
from wrinklefree.configs.config import DistributedConfig
from wrinklefree.errors import UsageError
from wrinklefree.models.bitlinear import BitLinear
from wrinklefree.models.checkpoint import load_artifact
from wrinklefree.models.manifest import read_manifest
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training.distributed import open_world
from wrinklefree.training.finite import NonFiniteError
from wrinklefree.training.metrics import MetricsLog
from wrinklefree.training.plan import plan
from wrinklefree.training.stages import run_stage

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
    # Each process writes the moments that it alone holds.
    files = list((out / "state" / "optimizer").glob("*.safetensors"))
    assert len(files) == (2 if kind == "fsdp2" else 1)
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
    assert world.collect({"rank": world.rank}) == [{"rank": 0}, {"rank": 1}]
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


DIVIDED = """
import sys, torch
from safetensors.torch import save_file
from wrinklefree.configs.config import DistributedConfig
from wrinklefree.models.bitlinear import BitLinear
from wrinklefree.models.checkpoint import load_artifact
from wrinklefree.training.distributed import open_world
from wrinklefree.training.sharding import local, shard

found = {}

def look(name):
    def hook(layer, _inputs):
        found[f"{name}.codes"] = layer.ternary()
        found[f"{name}.scale"] = torch.tensor(layer.scale)
    return hook

with open_world(DistributedConfig(kind="fsdp2")) as world:
    model = load_artifact(sys.argv[1]).model
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
            module.register_forward_pre_hook(look(name))
    apply = shard(model)
    assert all(2 * local(weight).numel() <= weight.numel() + 64 for weight in model.parameters())
    with torch.no_grad():
        found["logits"] = apply(lambda model: model(torch.arange(3, 40)[None]).logits)
    save_file(found, f"{sys.argv[2]}/{world.rank}")
"""


def test_divided_weights_have_the_codes_and_scales_of_whole_ones(
    chain: dict[str, Path], tmp_path: Path
) -> None:
    script = tmp_path / "divided.py"
    script.write_text(DIVIDED)
    subprocess.run(
        [*TORCHRUN, str(script), str(chain["s19"]), str(tmp_path)], timeout=120, check=True
    )
    model = load_artifact(chain["s19"]).model
    expected = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BitLinear):
            expected[f"{name}.codes"] = layer.ternary()
            expected[f"{name}.scale"] = torch.tensor(layer.scale)
    with torch.no_grad():
        expected["logits"] = model(torch.arange(3, 40)[None]).logits
    assert len(expected) > 2 * 7
    for rank in ("0", "1"):
        found = load_file(tmp_path / rank)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


RUNS = """
import json, os, sys, torch
from wrinklefree.configs.compose import compose_run
from wrinklefree.errors import WrinklefreeError
from wrinklefree.training.objective import Objective
from wrinklefree.training.stages import run_stage

seen, terms = [], Objective.terms

def poisoned(self, model, batch, *others):
    # The gradient of the third batch of rank 1 is no number.
    seen.append(batch.row_indices)
    def look(_module, _inputs, output):
        if os.environ["RANK"] == "1" and len(seen) > 2 and batch.row_indices == seen[2]:
            output.register_hook(lambda gradient: gradient * torch.nan)
    hook = model.model.layers[1].mlp.down_proj.register_forward_hook(look, prepend=True)
    try:
        return terms(self, model, batch, *others)
    finally:
        hook.remove()

# A store of its own for each run: that of torchrun still has the addresses of the run before.
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
for port, (name, settings) in zip(json.loads(sys.argv[2]), json.loads(sys.argv[1]).items()):
    os.environ["MASTER_PORT"] = str(port)
    Objective.terms = poisoned if "poison" in name else terms
    seen.clear()
    try:
        run_stage(compose_run(settings))
        told = "done"
    except WrinklefreeError as error:
        told = str(error)
    sys.stdout.write(json.dumps([name, told]) + "\\n")  # at once: both write to one pipe
    sys.stdout.flush()
"""

FEW = ("training.steps=4", "training.save_every=1")
SMALL = {  # what is divided with fsdp2, and how near the losses of one process it stays
    # Muon iterates in bfloat16: products of shards round otherwise, a hundredth of an update.
    "muon": (("training.optimizer=muon",), 3e-3),
    "checkpointing": (("training.activation_checkpointing=true",), 1e-4),
    "freeze": (("training.freeze=[embed,norms]",), 1e-4),
    "bfloat16": (("training.dtype=bfloat16",), 2e-3),
    "samples": (("training.sample_every=2", "training.sample_tokens=4"), 1e-4),
}


@pytest.fixture(scope="module")
def stopped(run: Run, stage: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that was interrupted after step 5."""
    out, show = tmp_path_factory.mktemp("stopped") / "out", MetricsLog.show

    def stop(self: MetricsLog, step: int, **values: float) -> None:
        show(self, step, **values)
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MetricsLog, "show", stop)
        with pytest.raises(KeyboardInterrupt):
            run("stage2_pretrain", out, *stage[1:])
    return out


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def runs(
    stopped: Path, stage: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[str]]]:
    """Many runs of the same two processes, since starting them takes longest: the directory of
    their artifacts, and what each process said of each run."""
    root = tmp_path_factory.mktemp("runs")
    settings = {f"{kind} {what}": () for kind in ("ddp", "fsdp2") for what in ("continued",)}
    settings |= {f"{kind} poison": FEW for kind in ("ddp", "fsdp2")}
    settings |= {f"fsdp2 {what}": (*FEW, *extra) for what, (extra, _) in SMALL.items()}
    commands = {}
    for name, extra in settings.items():
        if name.endswith("continued"):
            shutil.copytree(stopped, root / name)
        kind = f"distributed={name.split()[0]}"
        commands[name] = [*stage, *SETTINGS, *extra, kind, f"out={root / name}"]
    script = root / "runs.py"
    script.write_text(RUNS)
    done = subprocess.run(
        [*TORCHRUN, str(script), json.dumps(commands), json.dumps(free_ports(len(commands)))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, list[str]] = {name: [] for name in commands}
    for line in done.stdout.splitlines():
        name, said = json.loads(line)
        told[name].append(said)
    return root, told


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_go_on_where_one_was_stopped(
    kind: str, runs: tuple[Path, dict[str, list[str]]], alone: Path, read_metrics: ReadMetrics
) -> None:
    root, told = runs
    assert told[f"{kind} continued"] == ["done", "done"]
    losses = [entry["loss"] for entry in read_metrics(root / f"{kind} continued")]
    assert losses == pytest.approx([entry["loss"] for entry in read_metrics(alone)], rel=1e-4)
    weights = [load_file(out / "model.safetensors") for out in (alone, root / f"{kind} continued")]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", SMALL)
def test_what_can_be_divided(
    what: str,
    runs: tuple[Path, dict[str, list[str]]],
    run: Run,
    stage: tuple[str, ...],
    tmp_path: Path,
    read_metrics: ReadMetrics,
) -> None:
    root, told = runs
    assert told[f"fsdp2 {what}"] == ["done", "done"]
    extra, tolerance = SMALL[what]
    alone = run("stage2_pretrain", tmp_path / "out", *stage[1:], *FEW, *extra)
    both = (alone, root / f"fsdp2 {what}")
    one, two = ([entry["loss"] for entry in read_metrics(out)] for out in both)
    assert two == pytest.approx(one, rel=tolerance)
    texts = [[entry["text"] for entry in read_metrics(out, "sample")] for out in both]
    assert texts[0] == texts[1]
    assert len(texts[0]) == (6 if what == "samples" else 0)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_gradient_that_is_not_finite_in_one_process_stops_both(
    kind: str, runs: tuple[Path, dict[str, list[str]]]
) -> None:
    root, told = runs
    first, second = told[f"{kind} poison"]
    assert first == second
    where = r"the gradient of the output of model\.layers\.1\.mlp\.down_proj is the first"
    assert re.match(rf"rank 1: step 2: {where} that is not finite \(rows \d", first), first
    assert read_manifest(root / f"{kind} poison").metrics["steps"] == 2


def test_settings_that_do_not_fit(
    run: Run, stories: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="torchrun"), open_world(DistributedConfig(kind="ddp")):
        pass
    with pytest.raises(UsageError, match="nothing to divide"):
        run(
            "stage1_subln",
            tmp_path / "s1",
            f"model.path={stories}",
            f"data.path={corpus}",
            "distributed=ddp",
        )


FSDP2 = ("distributed=fsdp2", "training.accumulation=2")


@pytest.mark.parametrize("is_dry", [False, True])
@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (("distributed=ddp",), "accumulation=1 .* among 2 processes; give a multiple of 2"),
        ((*FSDP2, "training.qk_clip=100"), "qk_clip needs whole parameters"),
        ((*FSDP2, "training.compile=true"), "compile needs whole parameters"),
        ((*FSDP2, "training.shares_every=2"), "shares_every needs whole parameters"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_weights_are_loaded(
    settings: tuple[str, ...], complaint: str, is_dry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no weights: model.path is no directory, which would be the next complaint."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ("training=bitnet_sft", "model.path=nowhere", "data.path=nothing", "out=o")
    config = compose_run([*command, *settings])
    with pytest.raises(UsageError, match=complaint):
        plan(config) if is_dry else run_stage(config)
