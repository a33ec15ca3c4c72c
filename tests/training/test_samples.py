"""Texts while training: the same prompts each time, the run untouched, the log complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.packing import tokenize
from wrinklefree.data.records import PairRecord, TextRecord
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training.samples import build_samples

Run = Callable[..., Path]
Metrics = Callable[..., list[dict[str, Any]]]


def config(**values: Any) -> GradientConfig:
    return GradientConfig(stage="stage2_pretrain", **values)


def test_a_trained_model_tells_a_story(stories: str) -> None:
    model, tokenizer = load_teacher(stories)
    assert tokenizer is not None
    model.train()
    rows = tokenize([TextRecord("A")], tokenizer, max_length=16)
    prompts = ("Once upon a time, there was a", "The dog")
    samples = build_samples(config(sample_prompts=prompts, sample_tokens=12), tokenizer, rows)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    written = samples.write(model)
    assert [sample["prompt"] for sample in written] == list(prompts)
    assert "little" in written[0]["text"]
    assert samples.write(model) == written
    assert torch.rand(1) == expected  # no random number was used
    assert model.training


def test_openings_end_where_the_answer_begins(stories: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    pairs = [
        PairRecord(f"This film was number {i}, and it was", " good", ends=True) for i in (1, 2)
    ]
    rows = tokenize([*pairs, pairs[0]], tokenizer, max_length=64)
    opened = [tokenizer.decode(ids[1:]) for ids in build_samples(config(), tokenizer, rows).prompts]
    assert opened == [pair.prompt for pair in pairs]
    text = "Once there was a very small house in a forest."
    rows = tokenize([TextRecord(text), TextRecord("A")], tokenizer, max_length=64)
    (prompt,) = build_samples(config(), tokenizer, rows).prompts
    assert len(prompt) == 8
    assert text.startswith(tokenizer.decode(prompt[1:]))
    rows = tokenize([TextRecord("A"), TextRecord(text)], tokenizer, max_length=64)
    (prompt,) = build_samples(config(), tokenizer, rows).prompts
    assert tokenizer.decode(prompt[1:]) == "A"  # not the document after it in the same row


def test_a_run_writes_them_and_stays_the_same(
    run: Run,
    random_models: dict[str, str],
    corpus: str,
    read_metrics: Metrics,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    given = (f"model.path={random_models['llama']}", f"data.path={corpus}", "training.steps=4")
    plain = run("bitnet_sft", tmp_path / "plain", *given)
    talk = ("training.sample_every=2", "training.sample_prompts=[Hello,Who]")
    out = run("bitnet_sft", tmp_path / "talks", *given, *talk, "training.sample_tokens=3")
    assert [e["loss"] for e in read_metrics(out)] == [e["loss"] for e in read_metrics(plain)]
    written = read_metrics(out, "sample")
    assert [e["step"] for e in written] == [0, 0, 2, 2, 4, 4]
    assert [e["prompt"] for e in written] == ["Hello", "Who"] * 3
    assert "step 2 writes: 'Hello" in caplog.text
    assert read_metrics(plain, "sample") == []
