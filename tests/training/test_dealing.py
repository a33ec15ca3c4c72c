"""What each of several processes gets of the data, and the one position that they share."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wrinklefree.configs.config import DataConfig, SourceConfig
from wrinklefree.data.loader import Batches, Loader
from wrinklefree.data.packing import tokenize
from wrinklefree.data.readers import Shard
from wrinklefree.data.records import TextRecord
from wrinklefree.data.stream import StreamLoader
from wrinklefree.errors import UsageError
from wrinklefree.training.dealing import EveryOther, StreamPart, deal
from wrinklefree.training.distributed import World


@pytest.fixture(scope="module")
def tokenizer(stories: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(stories)


def rows_of(loader: Batches, number: int) -> list[tuple[int, ...]]:
    return [next(loader).row_indices for _ in range(number)]


def test_rows_in_memory_are_dealt_in_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    records = [TextRecord(f"{number} cats and dogs") for number in range(40)]
    rows = tokenize(records, tokenizer, max_length=16)

    def open_loader() -> Loader:
        return Loader(rows, batch_size=2, seed=0)

    alone = deal(open_loader(), World())
    expected = rows_of(alone, 12)
    first, second = (EveryOther(open_loader(), World(rank, 2)) for rank in (0, 1))
    assert [rows_of(first, 3), rows_of(second, 3)] == [expected[0:6:2], expected[1:6:2]]
    assert first.state_dict() == second.state_dict()
    # Three processes go on where two were, and one where three were.
    three = [EveryOther(open_loader(), World(rank, 3)) for rank in range(3)]
    for part in three:
        part.load_state_dict(first.state_dict())
    assert [rows_of(part, 1)[0] for part in three] == expected[6:9]
    alone.load_state_dict(three[0].state_dict())
    assert rows_of(alone, 3) == expected[9:]


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Two sources of pairs, told apart by their words; each has two records that are too long."""
    for word in ("cat", "dog"):
        texts = [f"{word} " * (60 if number < 2 else 3) for number in range(20)]
        lines = [json.dumps({"prompt": text, "completion": f" {word}"}) for text in texts]
        (tmp_path / f"{word}.jsonl").write_text("\n".join(lines))
    sources = (
        SourceConfig(path=str(tmp_path / f"{word}.jsonl"), format="sft") for word in ("cat", "dog")
    )
    return DataConfig(mixture=tuple(sources), max_length=32, workers=0)


def test_processes_read_their_shards_and_save_all_positions(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_streams(size: int) -> list[StreamLoader]:
        return [
            StreamLoader(config, tokenizer, batch_size=2, seed=0, shard=Shard(rank, size))
            for rank in range(size)
        ]

    def texts(part: StreamPart, number: int) -> list[str]:
        return [tokenizer.decode(row) for _ in range(number) for row in next(part).tokens_BL]

    streams = open_streams(2)
    # What the two say, without processes: see test_distributed.py for those.
    monkeypatch.setattr(World, "collect", lambda self, value: [s.state_dict() for s in streams])
    monkeypatch.setattr(
        World, "sum", lambda self, values: [sum(s.counts[key] for s in streams) for key in KEYS]
    )
    parts = [StreamPart(stream, World(rank, 2)) for rank, stream in enumerate(streams)]
    for part in parts:
        texts(part, 3)
    saved = json.loads(json.dumps(parts[0].state_dict()))
    assert [state["shard"] for state in saved["processes"]] == [[0, 2], [1, 2]]
    assert parts[0].counts == parts[1].counts == {"skipped": 4, "truncated": 0}
    expected = [texts(part, 4) for part in parts]
    assert expected[0] != expected[1]

    again = [StreamPart(stream, World(rank, 2)) for rank, stream in enumerate(open_streams(2))]
    for part in again:
        part.load_state_dict(saved)
    assert [texts(part, 4) for part in again] == expected
    again[1].mixture.set_weights([0.0, 1.0])
    assert all("dog" in text for text in texts(again[1], 6))

    (alone,) = open_streams(1)
    with pytest.raises(UsageError, match="among 2 processes, this one has 1; use as many"):
        StreamPart(alone, World()).load_state_dict(saved)
    for loader in (*parts, *again, alone):
        loader.close()


KEYS = ("skipped", "truncated")


def test_a_stream_alone_is_a_list_of_one(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    stream = StreamLoader(config, tokenizer, batch_size=2, seed=0)
    with contextlib.closing(deal(stream, World())) as loader:
        next(loader)
        assert loader.state_dict() == {"processes": [stream.state_dict()]}


def test_a_run_tells_how_many_records_did_not_fit(
    config: DataConfig,
    run: Callable[..., Path],
    random_models: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    sources = ",".join(f"{{path:{source.path},format:sft}}" for source in config.mixture or ())
    run(
        *("teacher_sft", tmp_path / "o", f"model.path={random_models['llama']}"),
        *("data=mixture", f"data.mixture=[{sources}]", "training.steps=1", "data.workers=0"),
    )
    assert "streamed records: 4 skipped, 0 cut" in caplog.text
