"""MFU counts the operations that a reader would count; the peak is one this machine reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.loader import Batch, collate
from wrinklefree.data.packing import tokenize
from wrinklefree.data.records import PairRecord
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training.distributed import World
from wrinklefree.training.objective import build_objective, count
from wrinklefree.training.precision import Precision
from wrinklefree.training.throughput import Throughput, measure_peak

PRECISION = Precision(torch.device("cpu"), torch.float32)


def throughput(model: PreTrainedModel, world: World | None = None, **values: Any) -> Throughput:
    config = GradientConfig(stage="stage3_distill", peak_tflops=1e-3, **values)
    return Throughput(model, build_objective(config, model), PRECISION, config, world or World())


@pytest.fixture
def model(random_models: dict[str, str]) -> PreTrainedModel:
    return load_teacher(random_models["llama"])[0]


@pytest.fixture
def batch(stories: str) -> Batch:
    texts = ("Once upon a time", "A dog ran to a big park")
    records = [PairRecord(text, " good", ends=True) for text in texts]
    tokenizer = AutoTokenizer.from_pretrained(stories)
    return collate(tokenize(records, tokenizer, max_length=64), (0, 1), pad_to=60)


def test_operations_are_those_that_torch_counts(model: PreTrainedModel) -> None:
    """A row without padding, logits everywhere; attention is counted whole there, half here."""
    tokens = torch.randint(3, 500, (1, 48))
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, use_cache=False).logits.sum().backward()
    products = 2 * 3 * 3 * 2 * 48 * 48 * 32  # QK' and PV, forward and twice backward, 3 layers
    rows = torch.zeros(1, 48, dtype=torch.int64)
    batch = Batch(tokens, tokens, rows, torch.arange(48)[None], (0,))
    counted = throughput(model, kd_weight=1.0, kd_positions="all").operations(
        [batch], count([batch])
    )
    assert counted == counter.get_total_flops() - products // 2


def test_padding_and_positions_without_logits_count_nothing(
    model: PreTrainedModel, batch: Batch
) -> None:
    body = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    lengths = batch.is_token_BL.sum(1).tolist()
    attention = 3 * 32 * sum(length**2 for length in lengths)
    num_labels = int(batch.is_label_BL.sum())
    assert 0 < num_labels < sum(lengths) < batch.tokens_BL.numel()
    for values, num_logits in (
        ({}, num_labels),
        ({"kd_weight": 1.0, "kd_positions": "all"}, sum(lengths)),
        ({"ce_weight": 0.0, "layerwise_weight": 1.0}, 0),
    ):
        counted = throughput(model, **values).operations([batch], count([batch]))
        assert counted == 6 * (body * sum(lengths) + 512 * 32 * num_logits + attention)


def test_values_of_a_step(model: PreTrainedModel, batch: Batch) -> None:
    meter, counts = throughput(model), count([batch])
    values = meter.values([batch], counts, 0.5)
    assert values["tokens_per_s"] == 2 * counts.tokens
    assert values["mfu"] == meter.operations([batch], counts) / (0.5 * 1e9)


def test_processes_that_do_the_same_work_at_once_have_the_mfu_of_one(
    model: PreTrainedModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, one = throughput(model).values([batch], count([batch]), 0.5), World.sum
    monkeypatch.setattr(
        World, "sum", lambda self, values: [self.size * v for v in one(World(), values)]
    )
    four = World(rank=1, size=4)
    together = throughput(model, four).values([batch], count([batch], four), 0.5)
    assert together["tokens"] == 4 * alone["tokens"]
    assert together["mfu"] == alone["mfu"]


def test_the_measured_peak_is_reached_by_a_product() -> None:
    peak = measure_peak(torch.device("cpu"), torch.float32, torch.get_num_threads())
    a = torch.ones(256, 256)
    began = time.perf_counter()
    a @ a
    # A busy machine may be any times slower, but it is never far beyond its peak.
    assert 2 * 256**3 / (time.perf_counter() - began) < 20 * peak


def test_the_peak_is_logged(
    run: Callable[..., Path],
    random_models: dict[str, str],
    corpus: str,
    read_metrics: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    given = (f"model.path={random_models['llama']}", f"data.path={corpus}", "training.steps=1")
    measured = run("teacher_sft", tmp_path / "a", *given)
    assert "TFLOP/s (measured, " in caplog.text
    out = run("teacher_sft", tmp_path / "b", *given, "training.peak_tflops=1e-3")
    assert "relative to 0.001 TFLOP/s (as given by training.peak_tflops)" in caplog.text
    assert "eta 0:00:00" in caplog.text
    assert read_metrics(out)[0]["mfu"] > read_metrics(measured)[0]["mfu"] > 0
