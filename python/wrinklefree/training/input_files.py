"""The local files a run reads: an output belongs to them, not to whatever takes their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wrinklefree.configs.config import GradientConfig, RunConfig
from wrinklefree.data.identity import files_hash
from wrinklefree.data.sources import files_of
from wrinklefree.errors import UsageError
from wrinklefree.models.checkpoint import is_artifact

METRIC = "input_files"  # key in the manifest's metrics


def input_hashes(config: RunConfig) -> dict[str, str]:
    """A hash for each path of data, teacher and float model; ids of the hub have none, nor has
    what is gone: a finished run does not need it."""
    found = {}
    for path in _data_paths(config):
        try:
            found[path] = files_hash(files_of(path))
        except UsageError:
            continue
    for path in _model_paths(config):
        if Path(path).is_dir():
            names = ("config.json", "tokenizer.json")
            small = [Path(path, name) for name in names if Path(path, name).is_file()]
            found[path] = files_hash([*small, *sorted(Path(path).glob("*.safetensors"))])
    return found


def changed_inputs(metrics: Mapping[str, Any], hashes: Mapping[str, str]) -> list[str]:
    """Paths that held other files when an artifact with these `metrics` was made."""
    recorded = metrics.get(METRIC, {})
    return [path for path, value in hashes.items() if recorded.get(path, value) != value]


def _data_paths(config: RunConfig) -> Iterator[str]:
    yield from (source.path for source in config.data.sources)
    if config.data.eval_path is not None:
        yield config.data.eval_path


def _model_paths(config: RunConfig) -> Iterator[str]:
    if not is_artifact(config.model.path):  # the hash of an artifact is the manifest's parent
        yield config.model.path
    if isinstance(config.training, GradientConfig) and config.training.teacher is not None:
        yield config.training.teacher
