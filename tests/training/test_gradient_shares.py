"""Shares are those of the terms' own gradients, and measuring them changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from wrinklefree.training.gradient_shares import gradient_shares


def test_shares_of_a_made_up_loss() -> None:
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))
    unused, frozen = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(1), False)
    b.grad = torch.tensor(7.0)
    terms = {"one": 3 * a[0] + 4 * b, "two": 15 * a[1], "none": b.detach() * a.sum() * 0}
    shares = gradient_shares(terms, [a, b, unused, frozen])
    assert shares == {"grad_share_one": 0.25, "grad_share_two": 0.75, "grad_share_none": 0.0}
    assert a.grad is None
    assert float(b.grad) == 7.0
    sum(terms.values()).backward()  # the graph is still there
    assert a.grad.tolist() == [3.0, 15.0]


def test_no_gradient_at_all_is_no_division_by_zero() -> None:
    a = nn.Parameter(torch.ones(2))
    assert gradient_shares({"zero": 0 * a.sum()}, [a]) == {"grad_share_zero": 0.0}


def test_the_run_is_the_same_with_them(
    run: Callable[..., Path],
    random_models: dict[str, str],
    corpus: str,
    read_metrics: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    base, data = random_models["llama"], f"data.path={corpus}"
    s1 = run("stage1_subln", tmp_path / "s1", f"model.path={base}", data)
    given = (
        *(f"model.path={s1}", f"training.teacher={base}", data, "training.steps=4"),
        *("training.split_heads=4", "training.gamma=10", "training.layerwise_weight=1"),
        *("training.accumulation=2", "training.lr=1e-3", "training.cache_teacher=false"),
    )

    def both(stage: str, *settings: str) -> list[dict[str, Any]]:
        plain = read_metrics(run(stage, tmp_path / "plain", *settings))
        out = run(stage, tmp_path / "shares", *settings, "training.shares_every=2")
        measured = read_metrics(out)
        for name in ("loss", "grad_norm"):
            assert [e[name] for e in measured] == [e[name] for e in plain]
        return measured

    alone = both("teacher_sft", f"model.path={base}", data, "training.steps=3", "resume=never")
    assert alone[2]["grad_share_ce"] == 1.0
    measured = both("stage3_distill", *given, "resume=never")
    names = [{key for key in e if key.startswith("grad_share_")} for e in measured]
    terms = {f"grad_share_{term}" for term in ("ce", "kd", "relation", "layerwise")}
    assert names == [terms, set(), terms, set()]
    # At lambda 1 the student is not the teacher, so every term pulls.
    assert all(measured[2][name] > 0 for name in terms)
    assert sum(measured[2][name] for name in terms) == pytest.approx(1.0)
