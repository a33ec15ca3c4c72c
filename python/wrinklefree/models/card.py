"""The model card: README.md of an artifact, from what its manifest and its ancestors say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from wrinklefree.models.licences import data_licence, model_card, model_licence
from wrinklefree.models.manifest import Manifest
from wrinklefree.models.weights import WEIGHTS_NAME

CARD_NAME = "README.md"
SCORES_BEGIN, SCORES_END = "<!-- scores -->", "<!-- end of scores -->"

# Ids that the hub takes in `license:`; anything else is `other` with its name.
_HUB_LICENCES = frozenset({"apache-2.0", "mit", "bsd-3-clause", "llama3.2", "gemma", "unknown"})


def write_card(directory: Path, manifest: Manifest, *, tokens: int | None = None) -> None:
    """Writes README.md beside config.json and the weights in `directory`.

    `tokens`: how many the stage read in training. Base model and licences come from the cards of
    the model it started from and of its teacher, where those are at hand.
    """
    recipe = manifest.recipe
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    is_ternary = "quantization_config" in config
    parent, teacher = _parent(recipe), _teacher(recipe)
    base = model_card(*parent).get("base_model", parent[0]) if parent else None
    licences = [("model it started from", parent), ("teacher", teacher)]
    stated = {title: model_licence(*source) for title, source in licences if source}
    head = {
        **_licence_fields(stated.get("model it started from")),
        **({"base_model": base} if base else {}),
        "library_name": "wrinklefree",
        "tags": ["bitnet", "1.58-bit", "ternary"] if is_ternary else ["teacher"],
    }
    kind = "ternary (1.58-bit) language model" if is_ternary else "float language model"
    facts = {
        "architecture": ", ".join(config.get("architectures", ["unknown"])),
        "parameters": f"{_num_parameters(directory):,}",
        "stage": manifest.stage,
        "started from": parent[0] if parent else None,
        "teacher": teacher[0] if teacher else None,
        "lambda": f"{manifest.lam:g}" if is_ternary else None,
        "SubLN": manifest.subln if is_ternary else None,
        "steps": manifest.metrics.get("steps"),
        "tokens in this stage": f"{tokens:,}" if tokens is not None else None,
        **{f"held-out {k}": f"{v:.4f}" for k, v in manifest.metrics.get("evaluation", {}).items()},
    }
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {Path(str(recipe.get('out', directory.name))).name}",
        f"A {kind} made by wrinklefree {manifest.code_version}.",
        _table(facts),
        "## Scores",
        f"{SCORES_BEGIN}\nNot measured yet; `wf-eval DIR --tasks ... --card` writes them here.\n"
        f"{SCORES_END}",
        "## Licences",
        _bullets({**stated, **_data(recipe)}),
    ]
    if recipe:
        settings = yaml.safe_dump(_without_none(recipe), sort_keys=False, allow_unicode=True)
        lines += ["## Recipe", f"```yaml\n{settings}```"]
    (directory / CARD_NAME).write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _parent(recipe: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Path or hub id, and revision, of the model that a stage started from."""
    model = recipe.get("model")
    return (model["path"], model.get("revision")) if isinstance(model, dict) else None


def _teacher(recipe: Mapping[str, Any]) -> tuple[str, str | None] | None:
    training = recipe.get("training", {})
    path = training.get("teacher")
    return (path, training.get("teacher_revision")) if path else None


def _licence_fields(licence: str | None) -> dict[str, str]:
    if licence is None or licence in _HUB_LICENCES:
        return {"license": licence or "unknown"}
    return {"license": "other", "license_name": licence}


def _data(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Licence of each source of the training data."""
    data = recipe.get("data")
    if not isinstance(data, dict):
        return {}
    sources = data.get("mixture") or [data]
    return {
        f"data {source['path']}": data_licence(source["path"], source["format"])
        for source in sources
        if source.get("path")
    }


def _num_parameters(directory: Path) -> int:
    """Values in the weights, read from the file's header."""

    def sizes() -> Iterator[int]:
        with safe_open(directory / WEIGHTS_NAME, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                yield size

    return sum(sizes())


def _table(facts: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {' '.join(str(value).split())} |"
        for name, value in facts.items()
        if value is not None
    ]
    return "\n".join(["| | |", "|---|---|", *rows])


def _bullets(items: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in items.items()) or "- not stated"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
