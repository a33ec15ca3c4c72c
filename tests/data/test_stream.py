"""Streams: the same batches with any number of workers, from any position, under any change."""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wrinklefree.configs.config import DataConfig, SourceConfig
from wrinklefree.data import blocks
from wrinklefree.data.encode import IGNORE
from wrinklefree.data.loader import Batch
from wrinklefree.data.readers import Shard
from wrinklefree.data.stream import StreamLoader
from wrinklefree.data.workers import WorkerError
from wrinklefree.errors import FormatError, UsageError


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_RECORDS", 8)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Text in two files, and pairs, 2 to 1."""
    words = ["Once", "upon", "a", "time", "there", "was", "a", "little", "girl"]
    texts = [{"text": f"{n} " + " ".join(words[n % 5 :] * (n % 3 + 1))} for n in range(70)]
    (tmp_path / "text").mkdir()
    write(tmp_path / "text" / "a.jsonl", texts[:50])
    write(tmp_path / "text" / "b.jsonl", texts[50:])
    pairs = [{"prompt": f"{n}:", "completion": f" {n * n}"} for n in range(30)]
    pairs[4] = {"prompt": "long " * 40, "completion": "x"}
    mixture = (
        SourceConfig(path=str(tmp_path / "text"), weight=2),
        SourceConfig(path=write(tmp_path / "pairs.jsonl", pairs), format="sft"),
    )
    return DataConfig(mixture=mixture, max_length=32, workers=0)


@pytest.fixture
def open_stream(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    """Open loaders that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_loader(config: DataConfig = config, **changes: Any) -> StreamLoader:
            fields = {name: getattr(config, name) for name in DataConfig.__slots__}
            workers = {"workers": changes.pop("workers")} if "workers" in changes else {}
            options = {"batch_size": 4, "seed": 1} | changes
            loader = StreamLoader(DataConfig(**fields | workers), tokenizer, **options)
            return stack.enter_context(contextlib.closing(loader))

        yield open_loader


def take(loader: StreamLoader, number: int) -> list[Batch]:
    return [next(loader) for _ in range(number)]


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    names = ("tokens_BL", "targets_BL", "documents_BL", "positions_BL")
    return len(ours) == len(theirs) and all(
        a.row_indices == b.row_indices
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)
        for a, b in zip(ours, theirs, strict=True)
    )


def rows_of_text(batch: Batch) -> list[bool]:
    """Text has labels nearly everywhere, of pairs only the completions are."""
    share = batch.is_label_BL.sum(1) / batch.is_token_BL.sum(1)
    return (share > 0.75).tolist()


def test_rows_are_full_and_documents_apart(open_stream: Any) -> None:
    for batch in take(open_stream(), 12):
        for tokens, targets, documents in zip(
            batch.tokens_BL, batch.targets_BL, batch.documents_BL, strict=True
        ):
            is_token = documents >= 0
            assert int(is_token.sum()) > 20
            ends = is_token[:-1] & (documents[:-1] != documents[1:])
            assert bool((targets[:-1][ends] == IGNORE).all())
            inner = (targets[:-1] != IGNORE) & ~ends & is_token[1:]
            assert torch.equal(targets[:-1][inner], tokens[1:][inner])


def test_workers_change_nothing_and_any_position_goes_on(open_stream: Any) -> None:
    plain = open_stream()
    expected = take(plain, 60)  # several epochs of both sources
    with_workers = open_stream(workers=2)
    states = []
    for batch in expected:
        states.append(json.loads(json.dumps(with_workers.state_dict())))
        assert same([next(with_workers)], [batch])
    for position in (0, 1, 2, 7, 23, 41, 59):
        resumed = open_stream()
        resumed.load_state_dict(states[position])
        assert same(take(resumed, 60 - position), expected[position:])
        assert resumed.state_dict() == plain.state_dict()
    # The pool of a loader is kept when it goes back.
    with_workers.load_state_dict(states[23])
    assert same(take(with_workers, 37), expected[23:])
    assert plain.counts["skipped"] >= 2  # the long pair, once an epoch


def test_a_resumed_run_resumes_again(
    tmp_path: Path, open_stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"story {n} of many"} for n in range(50)])
    hub = datasets.load_dataset("json", data_files=path, split="train", streaming=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: copy.deepcopy(hub))
    config = DataConfig(path="owner/name", max_length=16, streaming=True, workers=0)
    expected = take(open_stream(config), 30)
    found: list[Batch] = []
    state = None
    for num_batches in (8, 0, 1, 1, 0, 20):  # a block is about two batches
        resumed = open_stream(config)
        if state is not None:
            resumed.load_state_dict(state)
        found += take(resumed, num_batches)
        state = json.loads(json.dumps(resumed.state_dict()))
    assert same(found, expected)


def test_weights_change_while_workers_run_and_are_saved(open_stream: Any) -> None:
    loader, plain = open_stream(workers=2), open_stream()
    for each in (loader, plain):
        take(each, 5)
        each.mixture.set_weights([0, 1])
    state = loader.state_dict()
    batches = take(loader, 10)
    assert same(batches, take(plain, 10))
    assert not any(text for batch in batches for text in rows_of_text(batch))
    resumed = open_stream()
    resumed.load_state_dict(state)
    assert same(take(resumed, 10), batches)


@pytest.mark.parametrize("num_files", [1, 4])
def test_ranks_and_workers_share_out_an_epoch(
    num_files: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, open_stream: Any
) -> None:
    pairs = [{"prompt": f"{n}:", "completion": "x"} for n in range(100)]
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(num_files):
        write(folder / f"{number}.jsonl", pairs[number::num_files])
    config = DataConfig(path=str(folder), format="sft", max_length=32)
    seen = []
    for rank, own in enumerate((34, 33, 33)):
        loader = open_stream(config, batch_size=1, workers=2, shard=Shard(rank, 3))
        found: list[int] = []
        while len(found) < own:
            batch = next(loader)
            tokens, documents = batch.tokens_BL[0], batch.documents_BL[0]
            for number in range(int(documents.max()) + 1):
                found.append(int(tokenizer.decode(tokens[documents == number]).split(":")[0][3:]))
        seen += found[:own]
    assert sorted(seen) == list(range(100))


def test_a_rank_without_a_record_is_told(tmp_path: Path, open_stream: Any) -> None:
    config = DataConfig(path=write(tmp_path / "a.jsonl", [{"text": "one"}]), max_length=8)
    with pytest.raises(UsageError, match="no record for rank 1 of 2"):
        next(open_stream(config, shard=Shard(1, 2)))


def test_records_that_never_fit_are_no_endless_search(tmp_path: Path, open_stream: Any) -> None:
    pairs = [{"prompt": "long " * 40, "completion": "x"}] * 20
    config = DataConfig(path=write(tmp_path / "a.jsonl", pairs), format="sft", max_length=16)
    with pytest.raises(UsageError, match=r"no training rows: all \d+ .*data\.max_length=16"):
        next(open_stream(config, workers=0))


@pytest.mark.parametrize("change", ["seed", "batch_size", "shard", "data"])
def test_a_position_of_another_run_is_refused(
    change: str, config: DataConfig, open_stream: Any
) -> None:
    state = open_stream().state_dict()
    changes: dict[str, Any] = {"seed": 2, "batch_size": 8, "shard": Shard(0, 2)}
    if change == "data":
        with (Path(config.sources[0].path) / "a.jsonl").open("a") as file:
            file.write('{"text": "more"}\n')
    other = open_stream(**{change: changes[change]} if change in changes else {})
    with pytest.raises(UsageError, match="resume=never"):
        other.load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_record_stops_the_trainer_by_name(
    workers: int, tmp_path: Path, open_stream: Any
) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"good {n}"} for n in range(20)])
    with Path(path).open("a") as file:
        file.write('{"txt": "bad"}\n')
    loader = open_stream(DataConfig(path=path, max_length=8), workers=workers)
    with pytest.raises(FormatError, match="record 21"):
        take(loader, 100)


def test_a_dead_worker_is_an_error_and_not_a_hang(open_stream: Any) -> None:
    loader = open_stream(workers=2)
    next(loader)
    children = multiprocessing.active_children()
    assert len(children) == 2
    os.kill(children[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="exit code -9"):
        take(loader, 1000)
    loader.close()
    assert not multiprocessing.active_children()


def test_reading_ahead_is_bounded(
    open_stream: Any, config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    parse = blocks.parse

    def counting(*arguments: Any) -> Any:
        nonlocal read
        read += 1
        return parse(*arguments)

    monkeypatch.setattr(blocks, "parse", counting)
    single = DataConfig(path=config.sources[0].path, max_length=32)
    loader = open_stream(single, workers=1)
    next(loader)
    time.sleep(0.5)
    queued = 1 + blocks.AHEAD
    in_hands = 2  # one being used, one waiting for room
    assert 8 * queued <= read <= 8 * (queued + in_hands + 1)


PROGRAM = """
import multiprocessing, sys
from transformers import AutoTokenizer
from wrinklefree.configs.config import DataConfig
from wrinklefree.data.stream import StreamLoader
loader = StreamLoader(
    DataConfig(path=sys.argv[1], max_length=32, workers=2),
    AutoTokenizer.from_pretrained(sys.argv[2]), batch_size=4, seed=0,
)
next(loader)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
while True:
    next(loader)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_no_worker_outlives_its_trainer(
    number: signal.Signals, config: DataConfig, data_dir: Path
) -> None:
    arguments = [config.sources[0].path, str(data_dir / "stories260k_hf")]
    trainer = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert trainer.stdout is not None
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 2
    if number == signal.SIGINT:
        os.killpg(trainer.pid, number)  # a terminal signals the whole group
    else:
        trainer.kill()
    assert trainer.wait(20) != 0
    trainer.stdout.close()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_conversations_are_streamed_with_their_labels(tmp_path: Path, data_dir: Path) -> None:
    smol = AutoTokenizer.from_pretrained(data_dir / "tokenizer_smollm2")
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    config = DataConfig(
        path=write(tmp_path / "chat.jsonl", [{"messages": turns}] * 5),
        format="chat",
        max_length=128,
        workers=1,
    )
    with contextlib.closing(StreamLoader(config, smol, batch_size=2, seed=0)) as loader:
        batch = next(loader)
    answers = smol.decode(batch.targets_BL[batch.is_label_BL])
    assert batch.is_packed
    assert set(answers.split("<|im_end|>")) == {"4", ""}


def test_shares_of_rows_follow_the_weights(open_stream: Any, config: DataConfig) -> None:
    loader = open_stream(batch_size=50)
    chosen = np.array([loader.mixture.choose(row) for row in range(600)])
    batch = next(loader)
    assert rows_of_text(batch) == (chosen[:50] == 0).tolist()
    assert abs((chosen == 0).mean() - 2 / 3) < 4 * 0.5 / 600**0.5
