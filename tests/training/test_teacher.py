"""Teachers of another shape, and stage 3 on every kind of task data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.loader import Batch, collate
from wrinklefree.data.packing import tokenize
from wrinklefree.data.records import TextRecord
from wrinklefree.errors import UsageError
from wrinklefree.training.forward import decode
from wrinklefree.training.losses import attention_relation
from wrinklefree.training.objective import Objective, build_objective, count
from wrinklefree.training.precision import Precision
from wrinklefree.training.teacher import Teacher, check_tokens

FLOAT32 = Precision(torch.device("cpu"), torch.float32)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def make(seed: int, *, layers: int, width: int, heads: int, key_heads: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=width,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            initializer_range=0.2,
        )
    )


@pytest.fixture
def student() -> PreTrainedModel:
    return make(0, layers=3, width=32, heads=4, key_heads=2)


@pytest.fixture
def batch(stories: str) -> Batch:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    return collate(tokenize([TextRecord("The dog saw a cat.")], tokenizer, max_length=32), (0,))


def objective(student: PreTrainedModel, **values: Any) -> Objective:
    config = GradientConfig(stage="stage3_distill", gamma=1.0, **values)
    return build_objective(config, student)


def test_a_larger_teacher_is_compared_at_the_same_depth(
    student: PreTrainedModel, batch: Batch
) -> None:
    """6 layers of 6 heads against 3 of 4: the student's last layer follows the teacher's last."""
    larger = make(1, layers=6, width=48, heads=6, key_heads=3)
    target = objective(student, relation_layers=(-1,), split_heads=4)
    outputs = Teacher(larger, target, student=student, precision=FLOAT32)(batch)
    counts = count([batch])
    got = target.terms(student, batch, outputs, counts)["relation"]
    own = decode(student, batch, relation_layers=(2,)).relation[2]
    theirs = decode(larger, batch, relation_layers=(5,)).relation[5]
    assert own[0].shape[1] != theirs[0].shape[1]
    expected = attention_relation(
        own,
        theirs,
        batch.documents_BL,
        split_heads=4,
        normalisation="bitdistill",
        num_layers=1,
        count=counts.tokens,
    )
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    assert got.item() > 0
    got.backward()
    assert student.model.layers[2].self_attn.q_proj.weight.grad is not None


def test_shapes_that_do_not_fit_are_named(student: PreTrainedModel) -> None:
    larger = make(1, layers=6, width=48, heads=6, key_heads=3)
    with pytest.raises(UsageError, match="allowed are 1, 2, 4"):
        Teacher(larger, objective(student, split_heads=8), student=student, precision=FLOAT32)
    target = objective(student, split_heads=4, layerwise_weight=1.0)
    with pytest.raises(UsageError, match=r"training\.layerwise_weight=0"):
        Teacher(larger, target, student=student, precision=FLOAT32)
    with pytest.raises(UsageError, match="the layers are 0 to 2"):
        objective(student, split_heads=4, relation_layers=(-4,))


def tokenizer_of(*tokens: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, tokens[0])))


def test_the_same_tokens_are_needed_not_the_same_padding(student: PreTrainedModel) -> None:
    """512 rows each: the size of a vocabulary says nothing about its tokens."""
    own = tokenizer_of("<unk>", "a", "b")
    check_tokens(student, tokenizer_of("<unk>", "a", "b", "c"), own, num_rows=512)
    check_tokens(student, tokenizer_of("<unk>", "a"), own, num_rows=640)  # padded otherwise
    check_tokens(student, None, own, num_rows=512)
    with pytest.raises(UsageError, match=r"2 tokens have other ids .* 'a' \(1 and 2\)"):
        check_tokens(student, tokenizer_of("<unk>", "b", "a"), own, num_rows=512)
    with pytest.raises(UsageError, match="no tokenizer to show"):
        check_tokens(student, None, own, num_rows=640)
    many = tokenizer_of(*(f"t{index}" for index in range(513)))
    with pytest.raises(UsageError, match="too few for 1 tokens of the student, such as 't512'"):
        check_tokens(student, own, many, num_rows=640)


def test_a_run_with_another_tokenizers_teacher_is_refused(
    run: Callable[..., Path], stories: str, corpus: str, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(stories, teacher)
    file = teacher / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(words))
    s1 = run("stage1_subln", tmp_path / "s1", f"model.path={stories}", f"data.path={corpus}")
    given = (f"model.path={s1}", f"training.teacher={teacher}", f"data.path={corpus}")
    for more in ("training.gamma=0", "training.calibration_rows=4"):
        with pytest.raises(UsageError, match="2 tokens have other ids"):
            run("stage3_distill", tmp_path / "s3", *given, "training.steps=1", more)


RECORDS: dict[str, list[dict[str, Any]]] = {
    "sst2": [{"sentence": f"a film of {n} laughs", "label": n % 2} for n in range(8)],
    "summary": [
        {"article": f"Tom has {n} dogs. " * 9, "highlights": f"{n} dogs."} for n in range(8)
    ],
    "chat": [
        {
            "messages": [
                {"role": "user", "content": f"How many is {n}?"},
                {"role": "assistant", "content": f"It is {n}."},
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": "Yes."},
            ]
        }
        for n in range(8)
    ],
}


@pytest.mark.parametrize("positions", ["labels", "all"])
@pytest.mark.parametrize("data_format", RECORDS)
def test_stage_3_learns_each_task(
    run: Callable[..., Path],
    stories: str,
    read_metrics: Callable[..., list[dict[str, Any]]],
    data_format: str,
    positions: str,
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(stories, base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    data = tmp_path / "records.jsonl"
    data.write_text("\n".join(map(json.dumps, RECORDS[data_format])))
    given = (f"data.path={data}", f"data.format={data_format}", "data.max_length=128")
    s1 = run("stage1_subln", tmp_path / "s1", f"model.path={base}", *given)
    out = run(
        "stage3_distill",
        tmp_path / "s3",
        *(f"model.path={s1}", f"training.teacher={base}", *given, "data.eval_rows=0"),
        *("training.steps=8", "training.lr=1e-3", "training.schedule=constant"),
        *("training.split_heads=8", "training.gamma=100", "training.kd_weight=0.1"),
        f"training.kd_positions={positions}",
    )
    losses = [entry["loss_ce"] for entry in read_metrics(out)]
    assert losses[-1] < losses[0]
    assert all(entry["loss_kd"] > 0 for entry in read_metrics(out))
    assert all(0 < entry["labels"] < entry["tokens"] for entry in read_metrics(out))
