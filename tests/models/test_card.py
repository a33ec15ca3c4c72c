"""The model card says what the manifest and the cards of its ancestors say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from wrinklefree.models import Manifest
from wrinklefree.models.card import write_card
from wrinklefree.models.licences import front_matter, model_licence


def make(directory: Path, *, ternary: bool = True) -> Path:
    directory.mkdir()
    config: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]}
    if ternary:
        config["quantization_config"] = {"quant_method": "wrinklefree"}
    (directory / "config.json").write_text(json.dumps(config))
    weights = {"a": np.zeros((30, 40), np.float32), "b": np.zeros(7, np.float32)}
    save_file(weights, directory / "model.safetensors")
    return directory


def recipe(parent: Path | str, **data: Any) -> dict[str, Any]:
    return {
        "model": {"path": str(parent), "revision": None},
        "data": {"path": "rows.jsonl", "format": "sft", "mixture": None, **data},
        "training": {"stage": "stage3_distill", "teacher": None, "lr": 1e-4},
        "out": "runs/student",
    }


def test_a_card_states_recipe_tokens_and_licences(tmp_path: Path) -> None:
    teacher = make(tmp_path / "teacher", ternary=False)
    (teacher / "README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: org/Base-135M\n---\nhello\n"
    )
    settings = recipe(teacher, path="glue/sst2.jsonl", format="sst2")
    settings["training"]["teacher"] = str(teacher)
    manifest = Manifest(
        stage="stage3_distill",
        recipe=settings,
        subln="subln",
        metrics={"steps": 300, "evaluation": {"cross_entropy": 1.25}},
    )
    student = make(tmp_path / "student")
    write_card(student, manifest, tokens=1_234_567)
    head = front_matter(student / "README.md")
    assert (head["license"], head["base_model"]) == ("apache-2.0", "org/Base-135M")
    assert "ternary" in head["tags"]
    text = (student / "README.md").read_text()
    for part in (
        "# student",
        "| parameters | 1,207 |",
        "| tokens in this stage | 1,234,567 |",
        "| steps | 300 |",
        "| held-out cross_entropy | 1.2500 |",
        "- teacher: apache-2.0",
        "- data glue/sst2.jsonl: SST-2: no licence stated",
        "lr: 0.0001",
    ):
        assert part in text
    assert "null" not in text
    # The next stage finds both in this card.
    child = make(tmp_path / "child")
    write_card(child, Manifest(stage="s", recipe=recipe(student)))
    assert front_matter(child / "README.md")["base_model"] == "org/Base-135M"
    assert model_licence(str(child)) == "apache-2.0"


def test_every_source_of_a_mixture_is_named(tmp_path: Path) -> None:
    mixture = [{"path": "a.jsonl", "format": "text"}, {"path": "b.jsonl", "format": "qnli"}]
    manifest = Manifest(stage="s", recipe=recipe("none", path=None, mixture=mixture))
    write_card(make(tmp_path / "m"), manifest)
    text = (tmp_path / "m" / "README.md").read_text()
    assert "- data a.jsonl: not stated" in text
    assert "- data b.jsonl: QNLI: CC BY-SA 4.0" in text


def test_a_licence_file_and_none(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("\nMIT License\n\nCopyright")
    assert model_licence(str(tmp_path)) == "MIT License"
    write_card(make(tmp_path / "m"), Manifest(stage="s", recipe=recipe(tmp_path)))
    head = front_matter(tmp_path / "m" / "README.md")
    assert (head["license"], head["license_name"]) == ("other", "MIT License")
    assert model_licence("org/never-cached") == "unknown"
    write_card(make(tmp_path / "n"), Manifest(stage="imported"))
    assert front_matter(tmp_path / "n" / "README.md")["license"] == "unknown"


@pytest.mark.parametrize(
    "text", ["", "no head", "---\n: [\n---\n", "---\njust text\n---\n", "---\n"]
)
def test_a_broken_head_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert front_matter(tmp_path / "README.md") == {}


def test_a_path_of_any_letters_cannot_break_the_head(tmp_path: Path) -> None:
    parent = 'we: "ird\n---\nlicense: mit'
    write_card(make(tmp_path / "m"), Manifest(stage="s", recipe=recipe(parent)))
    head = front_matter(tmp_path / "m" / "README.md")
    assert (head["license"], head["base_model"]) == ("unknown", parent)
    assert '| started from | we: "ird --- license: mit |' in (tmp_path / "m/README.md").read_text()
