"""Batches from sources that are read and tokenized while training runs, at any size of the data.

For each row the mixture chooses a source; each source fills its own rows with its documents. The
batches depend on the sources, the seed, the rank and the weights, not on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wrinklefree.configs.config import DataConfig
from wrinklefree.data.blocks import BlockSource, Feed, Position
from wrinklefree.data.encode import Encoded, Encoder, Piece
from wrinklefree.data.loader import Batch, collate
from wrinklefree.data.mixture import Mixture
from wrinklefree.data.packing import TokenRows, join_rows
from wrinklefree.data.readers import Shard
from wrinklefree.data.sources import fingerprint
from wrinklefree.data.workers import WorkerPool
from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RowStream:
    """The rows of one source: pieces in order, texts cut at the end of a row, others whole."""

    def __init__(self, open_feed: Callable[[Position | None], Feed], *, max_length: int) -> None:
        self._open_feed, self._max_length = open_feed, max_length
        self._feed: Feed | None = None
        self._position: Position | None = None
        self._block = Encoded()
        self._piece = self._token = 0  # the next token, inside the block
        self._skipped = self._truncated = 0  # in the blocks before
        self._productive_epoch = 0

    def __next__(self) -> list[Piece]:
        row: list[Piece] = []
        room = self._max_length
        while room > 0:
            piece = self._next_piece()
            left = len(piece.tokens) - self._token
            if piece.is_whole and left > room:
                break
            taken = min(left, room)
            row.append(piece.part(slice(self._token, self._token + taken)))
            room -= taken
            if taken == left:
                self._piece, self._token = self._piece + 1, 0
            else:
                self._token += taken
        return row

    @property
    def counts(self) -> dict[str, int]:
        """Records that were too long and left out, or cut, up to and with the current block."""
        return {
            "skipped": self._skipped + self._block.skipped,
            "truncated": self._truncated + self._block.truncated,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values."""
        return {
            "block": self._position,
            "piece": self._piece,
            "token": self._token,
            "skipped": self._skipped,
            "truncated": self._truncated,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.close()
        self._block = Encoded()
        self._position, self._piece, self._token = None, 0, 0
        if state["block"] is not None:
            self._feed = self._open_feed(state["block"])
            self._take_block(self._feed)
            self._piece, self._token = int(state["piece"]), int(state["token"])
        self._skipped, self._truncated = int(state["skipped"]), int(state["truncated"])

    def close(self) -> None:
        """Stop reading ahead."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _next_piece(self) -> Piece:
        if self._feed is None:
            self._feed = self._open_feed(None)
        while self._piece >= len(self._block.pieces):
            self._skipped += self._block.skipped
            self._truncated += self._block.truncated
            self._take_block(self._feed)
        return self._block.pieces[self._piece]

    def _take_block(self, feed: Feed) -> None:
        self._position, self._block = next(feed)
        self._piece = self._token = 0
        epoch = int(self._position["epoch"])
        if self._block.pieces:
            self._productive_epoch = epoch
        elif epoch > self._productive_epoch + 1:
            raise UsageError(
                f"no training rows: all {self.counts['skipped']} records of a source are longer "
                f"than data.max_length={self._max_length}"
            )


class StreamLoader:
    """Endless batches of a mixture. Call `close` at the end (`contextlib.closing`)."""

    def __init__(
        self,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        seed: int,
        shard: Shard = Shard(),  # noqa: B008 (frozen)
    ) -> None:
        """Raises UsageError for a source that does not exist.

        The first batch starts config.workers processes.
        """
        sources = config.sources
        self.batch_size, self.seed, self.shard = batch_size, seed, shard
        self.mixture = Mixture([s.weight for s in sources], seed=seed, stream=shard.rank)
        self._max_length = config.max_length
        self._sources = [fingerprint(source) for source in sources]
        self._row = 0
        encoder = Encoder(tokenizer, max_length=config.max_length)
        self._pool: WorkerPool | None = None

        def stream(number: int) -> RowStream:
            blocks = BlockSource(sources[number], tokenizer, (seed, number), shard)

            def open_feed(start: Position | None) -> Feed:
                if self._pool is None and config.workers > 0:
                    self._pool = WorkerPool(encoder, config.workers)
                return Feed(
                    blocks,
                    encoder=encoder,
                    pool=self._pool,
                    num_workers=config.workers,
                    start=start,
                )

            return RowStream(open_feed, max_length=config.max_length)

        self._streams = [stream(number) for number in range(len(sources))]

    def __next__(self) -> Batch:
        first = self._row
        batch = collate(self.take(self.batch_size), tuple(range(self.batch_size)))
        return replace(batch, row_indices=tuple(range(first, self._row)))

    def take(self, num_rows: int) -> TokenRows:
        """The next rows."""
        numbers = range(self._row, self._row + num_rows)
        rows = [next(self._streams[self.mixture.choose(number)]) for number in numbers]
        self._row += num_rows
        return join_rows(rows)

    def close(self) -> None:
        """Stop the workers."""
        for stream in self._streams:
            stream.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @property
    def counts(self) -> dict[str, int]:
        """Records so far that were left out as too long ("skipped") or cut ("truncated")."""
        found = [stream.counts for stream in self._streams]
        return {key: sum(counts[key] for counts in found) for key in ("skipped", "truncated")}

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values: rows so far, weights, and where each source stands."""
        return {
            **self._identity(),
            "row": self._row,
            "weights": list(self.mixture.weights),
            "streams": [stream.state_dict() for stream in self._streams],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UsageError when the data or its order is another one."""
        for key, own in self._identity().items():
            if state.get(key) != own:
                raise UsageError(
                    f"the saved run used other data ({key} {state.get(key)}, now {own}); "
                    "restore it, or start anew with resume=never"
                )
        self._row = int(state["row"])
        self.mixture.set_weights(state["weights"])
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.load_state_dict(saved)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "max_length": self._max_length,
            "shard": [self.shard.rank, self.shard.world],
            "sources": self._sources,
        }
