"""20 steps of the tiny model: a refactoring that changes no numbers changes no loss.

A numeric change updates the file (WF_UPDATE_GOLDEN=1) and shows old and new losses in its commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wrinklefree.training.continuity import environment

GOLDEN = Path(__file__).parents[1] / "golden" / "training_losses.json"
# Elsewhere sums round differently, and int8 codes flip; the trajectory stays close.
TOLERANCE, TOLERANCE_ELSEWHERE = 1e-6, 2e-2


@pytest.fixture(scope="module")
def losses(
    run: Callable[..., Path],
    stories: str,
    corpus: str,
    read_metrics: Callable[..., list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[float]]:
    root = tmp_path_factory.mktemp("golden")
    data = (f"data.path={corpus}", "data.limit=1")
    # float32: the same numbers on machines with and without bfloat16. A small rate, because a large
    # one drives runs that differ in the last bit apart.
    common = (*data, "training.steps=20", "training.lr=1e-4", "training.dtype=float32")
    teacher = f"training.teacher={stories}"
    # Unit gains, so that a better calibration does not move these numbers.
    s1 = run(
        "stage1_subln",
        root / "s1",
        f"model.path={stories}",
        f"data.path={corpus}",
        "training.calibration=unit",
    )
    s19 = run("stage1_9_layerwise", root / "s19", f"model.path={s1}", teacher, *common)
    relation = ("training.split_heads=8", "training.gamma=100", "training.accumulation=2")
    s3 = run("stage3_distill", root / "s3", f"model.path={s19}", teacher, *relation, *common)
    return {
        "stage1_9_layerwise": [entry["loss"] for entry in read_metrics(s19)],
        "stage3_distill": [entry["loss"] for entry in read_metrics(s3)],
    }


def test_losses_are_the_golden_ones(losses: dict[str, list[float]], update_golden: bool) -> None:
    if update_golden:
        text = json.dumps({"environment": environment(), "losses": losses}, indent=1)
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    is_same_place = golden["environment"] == environment()
    tolerance = TOLERANCE if is_same_place else TOLERANCE_ELSEWHERE
    assert losses.keys() == golden["losses"].keys()
    for stage, values in golden["losses"].items():
        assert losses[stage] == pytest.approx(values, rel=tolerance, abs=tolerance), stage
