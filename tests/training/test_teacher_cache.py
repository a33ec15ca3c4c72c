"""Cached teacher outputs equal live ones, are computed once, and are never mixed up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from wrinklefree.configs.config import DataConfig
from wrinklefree.data.loader import collate
from wrinklefree.data.packing import TokenRows, tokenize
from wrinklefree.data.sources import read_records
from wrinklefree.errors import UsageError
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training.objective import Objective
from wrinklefree.training.precision import Precision
from wrinklefree.training.teacher import Teacher
from wrinklefree.training.teacher_cache import CachedTeacher


def make_teacher(
    path: str, *, everywhere: bool = False, gamma: float = 1.0, layerwise: float = 0.0
) -> Teacher:
    objective = Objective(
        ce_weight=0.0,
        kd_weight=1.0,
        kd_tau=2.0,
        kd_everywhere=everywhere,
        gamma=gamma,
        relation_layers=(2, 4),
        split_heads=8,
        relation_normalisation="bitdistill",
        layerwise_weight=layerwise,
        layer_weights=(1.0,) * 5,
    )
    model, _ = load_teacher(path)
    precision = Precision(torch.device("cpu"), torch.float32)
    return Teacher(model, objective, student=model, precision=precision)


@pytest.fixture(scope="module")
def rows(stories: str, choices: str) -> TokenRows:
    config = DataConfig(path=choices, format="choice", limit=12)
    return tokenize(read_records(config), AutoTokenizer.from_pretrained(stories), max_length=128)


@pytest.mark.parametrize("everywhere", [False, True], ids=["labels", "all"])
def test_cached_outputs_equal_live_ones(
    stories: str, rows: TokenRows, tmp_path: Path, everywhere: bool
) -> None:
    live = make_teacher(stories, everywhere=everywhere)
    cached = CachedTeacher(live, rows, tmp_path)
    for _ in range(2):  # computed, then read
        batch = collate(rows, (5, 0, 3), pad_to=130)
        got, expected = cached(batch), live(batch)
        assert got.head is not None
        assert expected.head is not None
        torch.testing.assert_close(*(each.head.hidden_PD for each in (got, expected)))
        assert got.head.weight_VD is expected.head.weight_VD
        assert got.relation.keys() == {2, 4}
        for layer, states in got.relation.items():
            for state, reference in zip(states, expected.relation[layer], strict=True):
                merged = reference.transpose(1, 2).flatten(2)
                kept = batch.is_token_BL
                torch.testing.assert_close(state[:, 0][kept], merged[kept], rtol=1e-3, atol=1e-3)


def test_rows_are_computed_once_also_after_a_restart(
    stories: str, rows: TokenRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = CachedTeacher(make_teacher(stories), rows, tmp_path)
    before = first(collate(rows, (1, 2)))

    def fail(*_: object) -> None:
        raise AssertionError("the teacher ran again")

    monkeypatch.setattr(Teacher, "decode", fail)
    restarted = CachedTeacher(make_teacher(stories), rows, tmp_path)
    after = restarted(collate(rows, (1, 2)))
    assert before.head is not None
    assert after.head is not None
    assert torch.equal(after.head.hidden_PD, before.head.hidden_PD)
    with pytest.raises(AssertionError, match="ran again"):
        restarted(collate(rows, (1, 3)))


def test_each_teacher_and_data_has_its_own_directory(
    stories: str, rows: TokenRows, tmp_path: Path
) -> None:
    teacher = make_teacher(stories)
    directories = {
        CachedTeacher(teacher, rows, tmp_path).directory,
        CachedTeacher(teacher, rows.split(6)[0], tmp_path).directory,
        CachedTeacher(make_teacher(stories, gamma=0.0), rows, tmp_path).directory,
        CachedTeacher(make_teacher(stories, everywhere=True), rows, tmp_path).directory,
    }
    with torch.no_grad():
        teacher.model.get_input_embeddings().weight.mul_(1.01)
    directories.add(CachedTeacher(teacher, rows, tmp_path).directory)
    assert len(directories) == 5


def test_hidden_states_of_all_layers_are_not_cached(
    stories: str, rows: TokenRows, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cache_teacher"):
        CachedTeacher(make_teacher(stories, layerwise=1.0), rows, tmp_path)


def test_students_of_other_depths_do_not_share_states(
    stories: str, rows: TokenRows, tmp_path: Path
) -> None:
    """Layers 2 and 4 are those of the teacher's 5 too; of 10 layers both lie at its layer 1."""
    teacher = make_teacher(stories)
    config = LlamaConfig(**{**teacher.model.config.to_dict(), "num_hidden_layers": 10})
    deep = Teacher(
        teacher.model,
        teacher.objective,
        student=LlamaForCausalLM(config),
        precision=teacher.precision,
    )
    assert (teacher.layer_of, deep.layer_of) == ({2: 2, 4: 4}, {2: 1, 4: 1})
    batch = collate(rows, (0, 1))
    CachedTeacher(teacher, rows, tmp_path)(batch)
    got, expected = CachedTeacher(deep, rows, tmp_path)(batch), deep(batch)
    for layer, states in got.relation.items():
        merged = expected.relation[layer][0].transpose(1, 2).flatten(2)
        kept = batch.is_token_BL
        torch.testing.assert_close(states[0][:, 0][kept], merged[kept], rtol=1e-3, atol=1e-3)


def test_states_are_on_disk_before_their_mark(
    stories: str, rows: TokenRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = CachedTeacher(make_teacher(stories), rows, tmp_path)
    marks = np.memmap(cached.directory / "done.u8", np.uint8, "r")
    flushed = []
    flush = np.memmap.flush

    def note(array: np.memmap) -> None:
        assert array.any()
        assert not marks.any()
        flushed.append(Path(array.filename).name)
        flush(array)

    monkeypatch.setattr(np.memmap, "flush", note)
    cached(collate(rows, (3,)))
    assert sorted(flushed) == ["hidden.f32", "relation2.f16", "relation4.f16"]
    assert marks.nonzero()[0].tolist() == [3]
