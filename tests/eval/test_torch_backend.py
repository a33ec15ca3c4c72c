from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from wrinklefree.cli.eval import main
from wrinklefree.eval.backend import Question, open_backend
from wrinklefree.eval.perplexity import run_perplexity
from wrinklefree.models import Manifest, QuantConfig, load_teacher, quantize_, save_artifact


@pytest.fixture(scope="module")
def stories(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf"


def questions(count: int) -> list[Question]:
    rng = random.Random(1)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(3, 512) for _ in range(length)]

    return [
        Question(tokens(rng.choice((3, 5, 9))), [tokens(1), tokens(2), tokens(2)])
        for _ in range(count)
    ]


def test_scores_are_those_of_the_plain_model_and_do_not_depend_on_the_batch(stories: Path) -> None:
    asked = questions(10)
    alone = open_backend(stories, batch=1).score(asked)
    together = open_backend(stories, batch=8).score(asked)
    np.testing.assert_allclose(alone, together, atol=1e-5)

    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval()
    question = asked[0]
    for choice, score in zip(question.choices, alone[0], strict=True):
        ids = torch.tensor([question.prompt + choice])
        with torch.inference_mode():
            logprobs = model(ids).logits.log_softmax(-1)[0]
        start = len(question.prompt) - 1
        expected = sum(float(logprobs[start + i, token]) for i, token in enumerate(choice))
        assert score == pytest.approx(expected, abs=1e-4)


def test_perplexity_of_a_trained_model_is_the_known_one(stories: Path, data_dir: Path) -> None:
    text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text()[:12_000]
    result = run_perplexity(open_backend(stories), [text], context=512, limit=6)
    assert result.perplexity == pytest.approx(4.20, rel=0.08)  # of the whole file
    assert result.bits_per_byte == pytest.approx(1.00, abs=0.08)
    assert result.with_bos == result.windows == 6


def test_artifacts_below_lambda_1_run_in_torch(stories: Path, tmp_path: Path) -> None:
    model, tokenizer = load_teacher(stories)
    quantize_(model, QuantConfig(subln="subln", lam=0.0))
    save_artifact(model, tokenizer, tmp_path / "student", Manifest(stage="test"))
    asked = questions(4)
    teacher = open_backend(stories).score(asked)
    # At lambda = 0 the converted model is exactly the teacher.
    np.testing.assert_allclose(open_backend(tmp_path / "student").score(asked), teacher, atol=1e-5)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def write_task(path: Path) -> Path:
    # No leading spaces: this SentencePiece tokenizer puts one in front of every text.
    lines = [
        {"prompt": "Once upon a", "choices": ["time", "said"], "label": 0},
        {"prompt": "She loved to", "choices": ["was", "play"], "label": 1},
        {"prompt": "One day, a little", "choices": ["girl", "the"], "label": 0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_command_line_reports_everything(stories: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "val.jsonl")
    code, out, _ = run(stories, "--tasks", task, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["backend"] == "torch"
    assert report["model_accuracy"]["correct"] == report["model_accuracy"]["total"] == 3
    assert report["model_accuracy"]["low"] == pytest.approx(0.4385, abs=1e-3)
    assert report["inputs"]["with_bos"] == 3
    code, out, _ = run(stories, "--tasks", task, "--limit", 2)
    assert "n=2" in out
    assert "0 prompts truncated" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{missing}", "--tasks", "ppl", "--data", "{task}"], "does not exist"),
        (["{model}", "--tasks", "pp"], "did you mean 'ppl'"),
        (["{model}", "--tasks", "ppl"], "--data FILE"),
        (["{model}", "--tasks", "ppl", "--data", "{text}", "--context", "4096"], "512"),
        (["{model}", "--tasks", "{task}", "--data", "{task}"], "belongs to"),
        (["{model}", "--task", "{task}"], "--tasks"),
    ],
)
def test_bad_usage_is_one_line_with_exit_code_2(
    stories: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    task = write_task(tmp_path / "val.jsonl")
    (tmp_path / "some.txt").write_text("Once upon a time")
    names = {
        "model": stories,
        "task": task,
        "text": tmp_path / "some.txt",
        "missing": tmp_path / "missing",
    }
    code, out, err = run(*(argument.format(**names) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert complaint in err
    assert err.count("\n") == 1
