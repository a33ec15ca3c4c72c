"""QK-clip: the largest logits are the model's own, and rescaled heads stay below the threshold."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from wrinklefree.data.loader import Batch, collate
from wrinklefree.data.packing import tokenize
from wrinklefree.data.records import PairRecord, TextRecord
from wrinklefree.errors import UsageError
from wrinklefree.models.attention_states import capture_attention
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training.forward import decode
from wrinklefree.training.qk_clip import QKClip

TEXTS = ("Once upon a time there was", "A dog ran to the park.", "They said hello to each other")
RECORDS = {
    "packed": [TextRecord(text) for text in TEXTS],  # all in one row
    "ragged": [PairRecord(text, " good", ends=True) for text in TEXTS],  # a row each
}


@pytest.fixture(params=RECORDS)
def batch(stories: str, request: pytest.FixtureRequest) -> Batch:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    rows = tokenize(RECORDS[request.param], tokenizer, max_length=64)
    made = collate(rows, tuple(range(len(rows))), pad_to=70)
    assert made.is_packed == (request.param == "packed")
    return made


def make(stories: str, key_heads: int) -> PreTrainedModel:
    torch.manual_seed(3)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=key_heads,
            attention_bias=True,
            initializer_range=0.4,
        )
    ).train()


@pytest.fixture(params=[4, 2], ids=["one query head a key head", "two"])
def model(stories: str, request: pytest.FixtureRequest) -> PreTrainedModel:
    made = make(stories, request.param)
    with torch.no_grad():
        for layer in made.model.layers:
            layer.self_attn.q_proj.bias.normal_(0, 0.5)
            layer.self_attn.k_proj.bias.normal_(0, 0.5)
    return made


def logits(model: PreTrainedModel, batch: Batch) -> list[torch.Tensor]:
    """Largest logit of each head of each layer, pair by pair of tokens."""
    with torch.no_grad(), capture_attention(model, range(2)) as states:
        decode(model, batch)
    documents, length = batch.documents_BL, batch.documents_BL.shape[1]
    found = []
    for layer in range(2):
        q, k, _ = states[layer]
        largest = torch.full((q.shape[1],), -math.inf)
        for b, t, u in torch.cartesian_prod(*map(torch.arange, (len(q), length, length))).tolist():
            if u <= t and documents[b, t] >= 0 and documents[b, t] == documents[b, u]:
                keys = k[b, :, u].repeat_interleave(q.shape[1] // k.shape[1], 0)
                largest = largest.maximum((q[b, :, t] * keys).sum(-1) / math.sqrt(q.shape[-1]))
        found.append(largest)
    return found


def test_clipped_heads_reach_the_threshold_and_others_stay(
    model: PreTrainedModel, batch: Batch
) -> None:
    before = logits(model, batch)
    threshold = float(torch.cat(before).median())
    clip = QKClip(model, threshold)
    with clip.watching(batch):
        decode(model, batch)
    weights = copy.deepcopy(model.state_dict())
    assert clip.apply() == pytest.approx(float(torch.cat(before).max()), rel=1e-5)

    # A layer's input depends on the layers before it, so only the first one is compared.
    after = logits(model, batch)[0]
    expected = before[0].clamp(max=threshold)
    assert after.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    changed = {n for n, p in model.state_dict().items() if not torch.equal(p, weights[n])}
    is_shared = model.config.num_key_value_heads < 4
    assert any("q_proj.bias" in name for name in changed)
    assert any("k_proj" in name for name in changed) != is_shared
    assert all("q_proj" in name or "k_proj" in name for name in changed)


def test_logits_below_the_threshold_change_nothing(model: PreTrainedModel, batch: Batch) -> None:
    clip = QKClip(model, 1e6)
    weights = copy.deepcopy(model.state_dict())
    with clip.watching(batch):
        decode(model, batch)
    assert clip.apply() > 0
    assert all(torch.equal(p, weights[n]) for n, p in model.state_dict().items())
    assert clip.apply() == 0.0  # it forgets


def test_watching_changes_neither_outputs_nor_relation_states(
    model: PreTrainedModel, batch: Batch
) -> None:
    plain = decode(model, batch, relation_layers=(1,))
    with QKClip(model, 1.0).watching(batch):
        watched = decode(model, batch, relation_layers=(1,))
    assert torch.equal(plain.last_BLD, watched.last_BLD)
    assert torch.equal(plain.relation[1][0], watched.relation[1][0])
    assert model.config._attn_implementation == "sdpa"


def test_q_norms_are_refused(random_models: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="normalises queries and keys"):
        QKClip(load_teacher(random_models["qwen3"])[0], 100.0)


def test_the_knob_reaches_the_run(
    run: Callable[..., Path],
    random_models: dict[str, str],
    corpus: str,
    read_metrics: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    """The step after a clip starts from other weights; the step before does not."""
    given = (f"model.path={random_models['llama']}", f"data.path={corpus}", "training.steps=2")
    small = ("training.accumulation=2", "training.qk_clip=1e-3")
    runs = [run("teacher_sft", tmp_path / "free", *given, "training.accumulation=2")]
    runs.append(run("teacher_sft", tmp_path / "clipped", *given, *small))
    (free, clipped) = (read_metrics(out) for out in runs)
    assert clipped[0]["loss"] == free[0]["loss"]
    assert clipped[1]["loss"] != free[1]["loss"]
    assert "qk_logit_max" not in free[0]
    assert 0 < clipped[1]["qk_logit_max"] < clipped[0]["qk_logit_max"]
