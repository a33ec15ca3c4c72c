"""Manifest: wrinklefree.json, the part of an artifact that says where it comes from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wrinklefree._version import __version__
from wrinklefree.errors import FormatError, UsageError, nearest
from wrinklefree.models.quant_config import check_lambda

MANIFEST_NAME = "wrinklefree.json"
STATE_DIR = "state"  # only in the artifact of an unfinished run
SCHEMA_VERSION = 1

# Type of every entry; `lambda` is a Python keyword, so the attribute is `lam`.
_TYPES: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "stage": (str,),
    "parent": (str, type(None)),
    "lambda": (int, float),
    "subln": (str,),
    "layouts": (list, tuple),
    "recipe": (dict,),
    "code_version": (str,),
    "data_position": (dict,),
    "metrics": (dict,),
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Provenance of an artifact.

    stage: name of what made it ("stage3_distill"). parent: `artifact_hash` of the artifact it was
    made from, or None. recipe, data_position, metrics: JSON objects of the trainer.
    `lam` and `subln` are filled in by `save_artifact` from the model, which is the authority.
    """

    stage: str
    parent: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    data_position: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    lam: float = 1.0
    subln: str = "none"
    layouts: tuple[str, ...] = ("f32-master",)
    code_version: str = __version__
    schema: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """The object of wrinklefree.json, in the order of the documentation."""
        values = asdict(self)
        values["lambda"] = values.pop("lam")
        return {name: values[name] for name in _TYPES}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Manifest:
        """Inverse of `to_json`. Raises FormatError naming every wrong entry at once."""
        schema = entries.get("schema")
        if type(schema) is int and schema > SCHEMA_VERSION:
            raise FormatError(
                f"this artifact has schema {schema}: it needs version {schema} or newer of the "
                f"artifact reader, this is wrinklefree {__version__} (schema {SCHEMA_VERSION})"
            )
        if problems := list(_problems(entries)):
            raise FormatError(f"{MANIFEST_NAME}: {'; '.join(problems)}")
        values = {("lam" if name == "lambda" else name): value for name, value in entries.items()}
        values["layouts"] = tuple(values["layouts"])
        return cls(**{item.name: values[item.name] for item in fields(cls)})


def read_manifest(directory: str | Path) -> Manifest:
    """Manifest of an artifact directory. Raises FormatError when it is missing or invalid."""
    path = Path(directory) / MANIFEST_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{directory} has no {MANIFEST_NAME}: not an artifact") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(entries, dict):
        raise FormatError(f"{path} is not a JSON object")
    return Manifest.from_json(entries)


def refuse_unfinished(directory: str | Path) -> None:
    """Raises FormatError if the artifact in `directory` is a checkpoint of an unfinished run."""
    path = Path(directory)
    if (path / MANIFEST_NAME).is_file() and (path / STATE_DIR).is_dir():
        raise FormatError(
            f"{directory} holds an unfinished training run ({STATE_DIR}/ is there): give the "
            "wf-train command that made it again, it continues"
        )


def artifact_hash(directory: str | Path) -> str:
    """Identity of an artifact, for the `parent` of its descendants: SHA-256 of its manifest."""
    return hashlib.sha256((Path(directory) / MANIFEST_NAME).read_bytes()).hexdigest()


def _problems(entries: Mapping[str, Any]) -> list[str]:
    problems = [f"{name!r} is missing" for name in _TYPES if name not in entries]
    problems += [
        f"{name!r} is unknown{nearest(name, _TYPES)}" for name in entries if name not in _TYPES
    ]
    for name, types in _TYPES.items():
        value = entries.get(name)
        if name in entries and (not isinstance(value, types) or isinstance(value, bool)):
            problems.append(f"{name!r} has the wrong type {type(value).__name__}")
    if problems:
        return problems
    if entries["schema"] < 1:
        problems.append(f"'schema' is {entries['schema']}, the first is 1")
    if entries["parent"] is not None and not re.fullmatch(r"[0-9a-f]{64}", entries["parent"]):
        problems.append("'parent' is not a SHA-256 in hexadecimal")
    try:
        check_lambda(entries["lambda"])
    except UsageError as error:
        problems.append(str(error))
    return problems
