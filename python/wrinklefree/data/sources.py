"""Where records come from: JSONL(.gz) and .txt files, or a data set of the Hugging Face hub.

text `{"text"}`, sft `{"prompt", "completion"}`, choice `{"prompt", "choices", "label"}`.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrinklefree.configs.config import DataConfig
from wrinklefree.errors import FormatError, UsageError


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A document to continue-pretrain on."""

    text: str


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A prompt (no loss) and what the model must answer."""

    prompt: str
    completion: str
    ends: bool  # whether an end-of-sequence token follows the completion


Record = TextRecord | PairRecord


def read_records(config: DataConfig, path: str | None = None) -> Iterator[Record]:
    """The records of `path` (default: config.path) in order, at most `config.limit`.

    Raises UsageError for a missing file or an unreachable hub id, FormatError for a bad record.
    """
    source = path if path is not None else config.path
    rows = _rows(config, source)
    for number, row in enumerate(itertools.islice(rows, config.limit), 1):
        yield _parse(row, config, f"{source}: record {number}")


def _rows(config: DataConfig, source: str) -> Iterable[Mapping[str, Any]]:
    path = Path(source)
    if path.is_file():
        return _file_rows(path, config)
    looks_like_hub_id = source.count("/") == 1 and not path.suffix and not source.startswith(".")
    if looks_like_hub_id:
        return _hub_rows(config, source)
    raise UsageError(f"data file {source} does not exist; give a .jsonl, .jsonl.gz or .txt file")


def _file_rows(path: Path, config: DataConfig) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".txt" or path.suffix == ".raw":
        if config.format != "text":
            raise UsageError(
                f"{path}: a text file has no {config.format} records; use data.format=text"
            )
        yield {config.text_field: path.read_text(encoding="utf-8")}
        return
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise UsageError(f"{path}: unknown kind of file; allowed are .jsonl, .jsonl.gz, .txt, .raw")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise FormatError(f"{path} line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise FormatError(f"{path} line {number}: expected a JSON object")
            yield row


def _hub_rows(config: DataConfig, repo: str) -> Iterator[Mapping[str, Any]]:
    import datasets

    try:
        # Streaming, so that `limit` bounds the download too.
        stream = datasets.load_dataset(
            repo, config.subset, split=config.split, revision=config.revision, streaming=True
        )
        yield from stream
    except (ConnectionError, OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"data set {repo} (split {config.split}) cannot be read from the hub: {reason}; "
            f"offline, download it elsewhere and give data.path=FILE.jsonl"
        ) from None


def _parse(row: Mapping[str, Any], config: DataConfig, where: str) -> Record:
    if config.format == "text":
        return TextRecord(_string(row, config.text_field, where))
    prompt = _string(row, "prompt", where)
    if config.format == "sft":
        return PairRecord(prompt, _string(row, "completion", where), ends=True)
    choices, label = row.get("choices"), row.get("label")
    if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
        raise FormatError(f'{where}: "choices" must be a list of strings')
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(choices):
        raise FormatError(f'{where}: "label" must be an index into its {len(choices)} choices')
    # NOTE: no end token after a choice: evaluation scores the choice's own tokens only.
    return PairRecord(prompt, choices[label], ends=False)


def _string(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        found = ", ".join(sorted(row)) or "nothing"
        raise FormatError(f'{where}: needs a string "{key}"; it has {found}')
    return value
