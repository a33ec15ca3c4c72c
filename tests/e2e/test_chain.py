"""The product from end to end: a real tiny model through every command, as a user types them.

float model -> wf-train (teacher_sft, stages 1 to 3) -> wf-convert to GGUF and back -> wf-serve.
After every hand-over two programs or two files must give the same logits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import httpx
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from wrinklefree import LLM
from wrinklefree.cli import convert, serve, train
from wrinklefree.configs.compose import compose_run
from wrinklefree.convert.hf_source import HfSource
from wrinklefree.data.encode import IGNORE
from wrinklefree.data.packing import TokenRows
from wrinklefree.models import load_artifact
from wrinklefree.training.inputs import load_rows

Paths = dict[str, Path]

BETWEEN_FILES = 1e-3  # nats, activations not quantized: float16 scales and embedding


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def invoke(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def succeed(command: click.Command, *arguments: object) -> None:
    result = invoke(command, *arguments)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def story(data_dir: Path) -> str:
    text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text(encoding="utf-8")
    return text[:20_000]


@pytest.fixture(scope="module")
def paths(data_dir: Path, story: str, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Everything that the chain leaves behind."""
    root = tmp_path_factory.mktemp("chain")
    teacher, corpus = data_dir / "stories260k_hf", root / "corpus.txt"
    corpus.write_text(story, encoding="utf-8")
    task = root / "task.jsonl"
    pieces = [story[start : start + 120] for start in range(0, 6000, 120)]
    records = ({"prompt": piece[:80], "completion": piece[80:]} for piece in pieces)
    task.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    found = {name: root / name for name in ("sft", "s1", "s19", "s2", "s3", "back")}
    found |= {"teacher": teacher, "gguf": root / "student.gguf", "corpus": corpus, "task": task}

    def stage(name: str, source: str, out: str, data: str, *more: str) -> None:
        form = "sft" if data == "task" else "text"
        loop = () if name == "stage1_subln" else ("training.steps=4", "training.dtype=float32")
        succeed(
            train.main,
            f"training={name}",
            f"model.path={found[source]}",
            f"data.path={found[data]}",
            f"data.format={form}",
            "data.max_length=128",
            "data.eval_rows=4",
            "training.batch_size=4",
            f"out={found[out]}",
            *loop,
            *more,
        )

    stage("teacher_sft", "teacher", "sft", "task")
    stage("stage1_subln", "teacher", "s1", "corpus")
    stage("stage1_9_layerwise", "s1", "s19", "corpus", f"training.teacher={teacher}")
    stage("stage2_pretrain", "s19", "s2", "corpus")
    distill = (f"training.teacher={found['sft']}", "training.split_heads=8")
    stage("stage3_distill", "s2", "s3", "task", *distill)
    succeed(convert.main, found["s3"], found["gguf"])
    succeed(convert.main, found["gguf"], found["back"], "--to", "hf")
    return found


@pytest.fixture(scope="module")
def token_ids(paths: Paths, story: str) -> list[int]:
    return load_artifact(paths["s3"]).tokenizer(story[:3000])["input_ids"][:400]


def torch_logits(artifact: Path, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return load_artifact(artifact).model(torch.tensor([ids])).logits[0]


def engine_logits(model: Path, ids: list[int], *, act_quant: bool = True) -> torch.Tensor:
    with LLM(model, threads=1, act_quant=act_quant) as llm:
        return torch.from_numpy(np.array(llm.logits(ids)))


def mean_kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> float:
    p, q = (torch.log_softmax(x.double(), -1) for x in (p_logits, q_logits))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("name", ["s19", "s2", "s3", "back"])
def test_the_engine_computes_what_was_trained(
    paths: Paths, token_ids: list[int], name: str
) -> None:
    """int8 rounding is chaotic token by token; what it means for the text is held to 1 %."""
    targets = torch.tensor(token_ids[1:])
    losses = [
        float(torch.nn.functional.cross_entropy(logits[:-1], targets))
        for logits in (torch_logits(paths[name], token_ids), engine_logits(paths[name], token_ids))
    ]
    assert abs(losses[0] - losses[1]) < 0.01


def engine_loss(model: Path, rows: TokenRows) -> float:
    """Nats per label, one document at a time."""
    nats = num_labels = 0.0
    with LLM(model, threads=1) as llm:
        for index in range(len(rows)):
            tokens, targets, documents = rows.row(index)
            for document in np.unique(documents):
                inside = documents == document
                # The target of the last token is no token of the row.
                ids = [*tokens[inside].tolist(), max(int(targets[inside][-1]), 0)]
                is_label = targets[inside] != IGNORE
                nats -= float(llm.logprobs(ids)[is_label].sum())
                num_labels += int(is_label.sum())
    return nats / num_labels


def test_the_loss_that_training_reports_is_that_of_the_engine(paths: Paths) -> None:
    """Per run: what wf-train measured last, on its held-out rows, beside the deployed model."""
    settings = (f"data.path={paths['task']}", "data.format=sft", "data.max_length=128")
    config = compose_run(
        [f"model.path={paths['s2']}", "training=stage3_distill", *settings, "out=x"]
    )
    tokenizer = load_artifact(paths["s3"]).tokenizer
    rows = load_rows(replace(config.data, eval_rows=4), tokenizer).evaluation
    assert rows is not None
    lines = (paths["s3"] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    reported = [e["cross_entropy"] for e in map(json.loads, lines) if e["kind"] == "eval"]
    assert abs(reported[-1] - engine_loss(paths["s3"], rows)) < 0.01
    assert abs(reported[-1] - engine_loss(paths["sft"], rows)) > 0.1  # the float model's is another


def test_stages_are_further_apart_than_the_bounds(paths: Paths, token_ids: list[int]) -> None:
    """So that a mixed-up file would be noticed."""
    s19, s2, s3 = (engine_logits(paths[name], token_ids) for name in ("s19", "s2", "s3"))
    assert min(mean_kl(s19, s2), mean_kl(s2, s3)) > 3 * BETWEEN_FILES


@pytest.mark.parametrize("name", ["gguf", "back"])
def test_conversion_keeps_the_model(paths: Paths, token_ids: list[int], name: str) -> None:
    """Without activation quantization, which would amplify the rounding of a scale."""
    before, after = (
        engine_logits(paths[file], token_ids, act_quant=False) for file in ("s3", name)
    )
    assert mean_kl(before, after) < BETWEEN_FILES


def test_codes_survive_the_way_there_and_back(paths: Paths) -> None:
    before, after = HfSource(paths["s3"]), HfSource(paths["back"])
    names = [name for name in before.names if before.is_ternary(name)]
    assert len(names) == 5 * 7
    for name in names:
        old, new = before.ternary(name), after.ternary(name)
        assert np.array_equal(old.codes, new.codes), name
        assert new.scale == np.float32(np.float16(old.scale)), name


def test_the_student_is_served(paths: Paths) -> None:
    command = [sys.executable, "-c", "from wrinklefree.cli.serve import main; main()"]
    command += [str(paths["gguf"]), "--port", "0", "--threads", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    body = {
        "messages": [{"role": "user", "content": "Once upon a time"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "OpenAI API" in line)
            url = line.split()[2].rstrip("/") + "/v1/chat/completions"
            answers = [httpx.post(url, json=body, timeout=30) for _ in range(2)]
        finally:
            process.kill()
    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    first, second = (answer.json() for answer in answers)
    assert first["choices"] == second["choices"]
    assert first["choices"][0]["message"]["role"] == "assistant"
    assert 1 <= first["usage"]["completion_tokens"] <= 8


def refusal(command: click.Command, code: int, *arguments: object) -> str:
    """The one line on stderr of a command that fails with `code`."""
    result = invoke(command, *arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_mistakes_are_one_line(paths: Paths, tmp_path: Path) -> None:
    out, nothing = tmp_path / "out", tmp_path / "nothing"
    data = (f"data.path={paths['corpus']}", f"out={out}")
    line = refusal(train.main, 2, "training=teacher_sft", f"model.path={nothing}", *data)
    assert "nothing" in line
    assert "nothing" in refusal(convert.main, 2, nothing, tmp_path / "out.gguf")
    assert "nothing" in refusal(serve.main, 2, nothing, "--port", "0")
    wrong = (f"model.path={paths['teacher']}", *data, "training.stepps=1")
    assert "training.steps" in refusal(train.main, 2, "training=teacher_sft", *wrong)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(paths["gguf"].read_bytes()[:-1000])
    refusal(convert.main, 1, cut, out, "--to", "hf")
    refusal(serve.main, 1, cut, "--port", "0")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]
