"""A source as an endless sequence of encoded blocks, prepared ahead by workers.

A block is some consecutive records of one rank, shuffled. Which records it has depends on the
source, the seed and the rank alone, never on workers or on time; so a position is the start of a
block, and the rows after it are the same with any number of workers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wrinklefree.configs.config import SourceConfig
from wrinklefree.data.encode import Encodable, Encoded, Encoder, renderable
from wrinklefree.data.readers import Shard
from wrinklefree.data.records import Record, parse
from wrinklefree.data.sources import open_reader
from wrinklefree.data.workers import STOP_S, WorkerPool
from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCK_RECORDS = 256
BLOCK_CHARACTERS = 500_000  # long documents: about 100k tokens, some tenths of a second of work
AHEAD = 2  # blocks that wait or are worked on, besides one for each worker

Position = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BlockSource:
    """Blocks of one rank's share of a source, epoch after epoch."""

    source: SourceConfig
    tokenizer: PreTrainedTokenizerBase
    seed: tuple[int, ...]
    shard: Shard

    def blocks(self, start: Position | None) -> Iterator[tuple[Position, list[Encodable]]]:
        """From a saved position on. Raises UsageError when an epoch has no record."""
        epoch = int(start["epoch"]) if start is not None else 0
        at: Mapping[str, Any] | None = start["reader"] if start is not None else None
        while True:
            found = False
            for position, records in self._epoch(epoch, at):
                found = True
                shuffle = [*self.seed, epoch, int(position["record"])]
                order = np.random.Generator(np.random.PCG64(shuffle)).permutation(len(records))
                picked = (records[index] for index in order)
                yield (
                    {"epoch": epoch, "reader": position},
                    list(renderable(picked, self.tokenizer)),
                )
            if not found and at is None:
                raise UsageError(
                    f"no training rows: {self.source.path} has no record for rank "
                    f"{self.shard.rank} of {self.shard.world}"
                )
            epoch, at = epoch + 1, None

    def _epoch(
        self, epoch: int, start: Mapping[str, Any] | None
    ) -> Iterator[tuple[Position, list[Record]]]:
        seed = (*self.seed, epoch)
        reader = open_reader(self.source, shard=self.shard, start=start, shuffle=seed)
        position, records, size = reader.position(), list[Record](), 0
        for where, row in reader:
            records.append(parse(row, self.source, where))
            size += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(records) == BLOCK_RECORDS or size >= BLOCK_CHARACTERS:
                yield position, records
                position, records, size = reader.position(), [], 0
        if records:
            yield position, records


class Feed:
    """The encoded blocks of one source: by `pool` in a bounded queue, or, without one, in place."""

    def __init__(
        self,
        source: BlockSource,
        *,
        encoder: Encoder,
        pool: WorkerPool | None,
        num_workers: int,
        start: Position | None,
    ) -> None:
        self._blocks = source.blocks(start)
        self._encoder, self._pool = encoder, pool
        self._queue: queue.Queue[tuple[Position, Future[Encoded]] | BaseException] = queue.Queue(
            num_workers + AHEAD
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if pool is not None:
            # Reading a file or the network, too, goes on while the trainer computes.
            self._thread = threading.Thread(target=self._fill, args=(pool,), daemon=True)
            self._thread.start()

    def __next__(self) -> tuple[Position, Encoded]:
        """The next block with its position. Raises what reading or encoding it raised."""
        if self._pool is None:
            position, records = next(self._blocks)
            return position, self._encoder(records)
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._put(item)  # it will be no better the next time
            raise item
        position, future = item
        return position, future.result()

    def close(self) -> None:
        """Stop reading ahead."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_S)  # a network that does not answer must not hold us

    def _fill(self, pool: WorkerPool) -> None:
        try:
            for position, records in self._blocks:
                if not self._put((position, pool.submit(records))):
                    return
        except BaseException as error:  # it belongs to the trainer
            self._put(error)

    def _put(self, item: tuple[Position, Future[Encoded]] | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
