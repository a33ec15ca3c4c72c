from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

from wrinklefree.errors import UsageError
from wrinklefree.eval.backend import Question, open_backend
from wrinklefree.eval.perplexity import PerplexityTask
from wrinklefree.models import Manifest, QuantConfig, load_teacher, quantize_, save_artifact


def questions(count: int) -> list[Question]:
    rng = random.Random(1)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(3, 512) for _ in range(length)]

    return [
        Question(tokens(rng.choice((3, 5, 9))), [tokens(1), tokens(2), tokens(2)])
        for _ in range(count)
    ]


def test_scores_are_those_of_the_plain_model_whatever_is_asked_together(stories: Path) -> None:
    asked = questions(10)
    backend = open_backend(str(stories))
    together = backend.score(asked)
    assert together == [backend.score([question])[0] for question in asked]  # bit for bit

    model = AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval()
    question = asked[0]
    for choice, score in zip(question.choices, together[0], strict=True):
        ids = torch.tensor([question.prompt + choice])
        with torch.inference_mode():
            logprobs = model(ids).logits.log_softmax(-1)[0]
        start = len(question.prompt) - 1
        expected = sum(float(logprobs[start + i, token]) for i, token in enumerate(choice))
        assert score.logprob == pytest.approx(expected, abs=1e-4)
        greedy = logprobs[start : start + len(choice)].argmax(-1).tolist()
        assert score.is_greedy == (greedy == choice)


def test_perplexity_of_a_trained_model_is_the_known_one(stories: Path, data_dir: Path) -> None:
    text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text()[:12_000]
    task = PerplexityTask("stories", [text], limit=6)
    outcome = task.run(
        open_backend(str(stories)), context=512, batch=1, progress=lambda done, total: None
    )
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert values["perplexity"] == pytest.approx(4.20, rel=0.08)  # of the whole file
    assert values["bits_per_byte"] == pytest.approx(1.00, abs=0.08)
    assert outcome.counts.with_bos == outcome.counts.examples == 6


def test_artifacts_below_lambda_1_run_in_torch(stories: Path, tmp_path: Path) -> None:
    model, tokenizer = load_teacher(stories)
    quantize_(model, QuantConfig(subln="subln", lam=0.0))
    save_artifact(model, tokenizer, tmp_path / "student", Manifest(stage="test"))
    asked = questions(4)
    assert open_backend(str(tmp_path / "student")).name == "torch at lambda 0"
    assert open_backend(str(stories)).name == "torch"
    # At lambda = 0 the converted model is exactly the teacher.
    for row, others in zip(
        open_backend(str(tmp_path / "student")).score(asked),
        open_backend(str(stories)).score(asked),
        strict=True,
    ):
        for score, other in zip(row, others, strict=True):
            assert score.logprob == pytest.approx(other.logprob, abs=1e-5)


def test_a_model_without_a_context_length_is_refused(
    byte_level_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(byte_level_model, tmp_path / "model")
    config = BloomConfig(vocab_size=49152, hidden_size=32, n_layer=1, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="no max_position_embeddings"):
        open_backend(str(tmp_path / "model"))
