"""Rows of every kind of file and of `datasets`: all of them, from any position, in any split."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from wrinklefree.configs.config import SourceConfig
from wrinklefree.data.readers import Shard
from wrinklefree.data.sources import open_reader
from wrinklefree.errors import FormatError, UsageError

ROWS = [{"text": f"Ünï {number}" * (number % 4 + 1)} for number in range(23)]
KINDS = [
    "one.jsonl",
    "packed.jsonl.gz",
    "table.parquet",
    "many",
    "many/*.jsonl",
    "hub",
    "hub-limit",
]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(lines)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SourceConfig]:
    """The rows as each kind of source."""

    def make(kind: str) -> SourceConfig:
        if kind == "table.parquet":
            table = pyarrow.Table.from_pylist(ROWS)
            pyarrow.parquet.write_table(table, tmp_path / kind, row_group_size=5)
        elif kind.startswith(("many", "hub")):
            folder = tmp_path / "many"
            (folder / "more").mkdir(parents=True)
            parts = ("a.jsonl", ROWS[:9]), ("b.jsonl", []), ("c.jsonl", ROWS[9:])
            for name, rows in parts:
                write_jsonl(folder / name, rows)
            (folder / "README.md").write_text("no data")
        else:
            write_jsonl(tmp_path / kind, ROWS)
        if not kind.startswith("hub"):
            return SourceConfig(path=str(tmp_path / kind))
        load = datasets.load_dataset
        files = [str(tmp_path / "many" / name) for name in ("a.jsonl", "c.jsonl")]

        def load_dataset(repo: str, subset: str | None, **options: Any) -> Any:
            assert (repo, subset, options.pop("revision")) == ("owner/name", None, None)
            return load("json", data_files=files, **options)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return SourceConfig(path="owner/name", limit=23 if kind == "hub-limit" else None)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_position_gives_the_rest(kind: str, source: Callable[[str], SourceConfig]) -> None:
    config = source(kind)
    reader = open_reader(config)
    positions = [reader.position()]
    for where, row in reader:
        assert dict(row) == ROWS[len(positions) - 1]
        assert "record" in where
        positions.append(reader.position())
    assert len(positions) == len(ROWS) + 1
    for number in (0, 1, 8, 9, 10, 22, 23):
        saved = json.loads(json.dumps(positions[number]))
        rest = [dict(row) for _, row in open_reader(config, start=saved)]
        assert rest == ROWS[number:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2), Shard(1, 3)])
def test_a_position_taken_before_the_first_row_is_the_one_given(
    shard: Shard, kind: str, source: Callable[[str], SourceConfig]
) -> None:
    """A run that is resumed saves again before it has read much, or anything."""
    config = source(kind)
    expected = [dict(row) for _, row in open_reader(config, shard=shard)]
    found: list[dict[str, Any]] = []
    position: dict[str, Any] | None = None
    for num_rows in (0, 3, 0, 0, 1, 2, 99, 0):
        reader = open_reader(config, shard=shard, start=position)
        at_start = reader.position()
        if position is not None:
            assert at_start == position
        found += [dict(row) for _, (_, row) in zip(range(num_rows), reader, strict=False)]
        position = json.loads(json.dumps(reader.position() if num_rows else at_start))
    assert found == expected


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_disjoint_and_complete(
    kind: str, world: int, source: Callable[[str], SourceConfig]
) -> None:
    config = source(kind)
    parts = [
        [row["text"] for _, row in open_reader(config, shard=Shard(rank, world))]
        for rank in range(world)
    ]
    assert sorted(text for part in parts for text in part) == sorted(r["text"] for r in ROWS)


def test_files_come_in_another_order_each_epoch(tmp_path: Path) -> None:
    for number in range(6):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"text": str(number)}])
    config = SourceConfig(path=str(tmp_path))
    orders = [
        [row["text"] for _, row in open_reader(config, shuffle=(0, epoch))] for epoch in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list("012345")


def test_limit_is_over_all_ranks(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    config = SourceConfig(path=str(tmp_path / "a.jsonl"), limit=7)
    counts = [len(list(open_reader(config, shard=Shard(rank, 2)))) for rank in range(2)]
    assert counts == [4, 3]


def test_damaged_files_are_format_errors(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl.gz", ROWS)
    whole = (tmp_path / "a.jsonl.gz").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing of use")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "\xff"}\n')
    (tmp_path / "d.jsonl").write_text("[" * 100_000 + "\n")
    for name, words in (
        ("a.jsonl.gz", "whole gzip"),
        ("b.parquet", "readable parquet"),
        ("c.jsonl", "line 1: not UTF-8"),
        ("d.jsonl", "line 1: not JSON"),
    ):
        with pytest.raises(FormatError, match=words):
            list(open_reader(SourceConfig(path=str(tmp_path / name))))


@pytest.mark.parametrize("line", [rb'{"text": "a \ud83d b"}', b'{"text": "a \xed\xa0\xbd b"}'])
def test_half_a_surrogate_pair_is_a_format_error(tmp_path: Path, line: bytes) -> None:
    """The tokenizer takes none. A whole pair is an emoji, and a backslash is a backslash."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(rb'{"text": "\ud83d\ude00 \\ud83d"}' + b"\n" + line + b"\n")
    rows = iter(open_reader(SourceConfig(path=str(path))))
    assert next(rows)[1] == {"text": "\U0001f600 \\ud83d"}
    with pytest.raises(FormatError, match=r"a\.jsonl line 2: (.ud83d is half|not UTF-8)"):
        next(rows)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    content = "Ünï" if name == "a.txt" else '{"text": "Ünï"}'
    opener: Any = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt", encoding="utf-8-sig") as file:
        file.write(content)
    rows = [row for _, row in open_reader(SourceConfig(path=str(tmp_path / name)))]
    assert rows == [{"text": "Ünï"}]


def test_hidden_files_and_folders_are_not_read(tmp_path: Path) -> None:
    root = tmp_path / ".given"  # the folder that was asked for may be hidden itself
    for name in ("a.jsonl", ".b.jsonl", ".cache/c.jsonl", "more/.ipynb_checkpoints/d/e.jsonl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(root / name, [{"text": name}])
    rows = [row["text"] for _, row in open_reader(SourceConfig(path=str(root)))]
    assert rows == ["a.jsonl"]


@pytest.mark.parametrize("path", ["empty", "*.jsonl", "no/*.parquet"])
def test_no_files_is_a_usage_error(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="does not exist"):
        list(open_reader(SourceConfig(path=path)))
