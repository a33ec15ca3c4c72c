"""Under which licence a model or a data set is, as far as can be told without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

UNKNOWN = "unknown"

# What the authors of the data say; files of these formats hold it, wherever they came from.
DATA = {
    "sst2": "SST-2: no licence stated (sentences of Rotten Tomatoes, research use)",
    "cola": "CoLA: no licence stated (examples of published linguistics, research use)",
    "mrpc": "MRPC: Microsoft Research data licence",
    "rte": "RTE: no licence stated",
    "qnli": "QNLI: CC BY-SA 4.0, from SQuAD",
    "mnli": "MNLI: OANC, CC BY-SA 3.0 or CC BY 3.0, by genre",
}


def front_matter(readme: Path) -> dict[str, Any]:
    """The YAML block at the top of a model card; empty where there is none."""
    try:
        text = readme.read_text(encoding="utf-8")
        head, end, _ = text.removeprefix("---\n").partition("\n---\n")
        values = yaml.safe_load(head) if end and text.startswith("---\n") else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def model_card(source: str, revision: str | None = None) -> dict[str, Any]:
    """Front matter of the card of a directory, or of a hub id as far as it is in the cache."""
    if Path(source).is_dir():
        return front_matter(Path(source) / "README.md")
    try:
        cached = try_to_load_from_cache(source, "README.md", revision=revision)
    except ValueError:  # neither a directory nor a hub id
        return {}
    return front_matter(Path(cached)) if isinstance(cached, str) else {}


def model_licence(source: str, revision: str | None = None) -> str:
    """Licence of a model: what its card says, else the first line of its LICENSE file."""
    card = model_card(source, revision)
    stated = card.get("license_name", card.get("license"))  # the hub's `other` has a name
    if isinstance(stated, str):
        return stated
    file = Path(source) / "LICENSE"
    if file.is_file():
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in lines if line.strip()), UNKNOWN)
    return UNKNOWN


def data_licence(path: str, format: str) -> str:
    """Licence of training data by its format; a format of anything says nothing."""
    return DATA.get(format, f"not stated; see where {path} comes from")
