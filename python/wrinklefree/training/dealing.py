"""Which batches each of several processes trains on, and one saved position for all of them."""

from __future__ import annotations

from typing import Any

from wrinklefree.data.loader import Batch, Batches, Loader
from wrinklefree.data.mixture import Mixture
from wrinklefree.data.stream import StreamLoader
from wrinklefree.errors import UsageError
from wrinklefree.training.distributed import World


def deal(loader: Loader | StreamLoader, world: World) -> Batches:
    """This process's part of the batches; a stream must have been opened with its shard."""
    if isinstance(loader, StreamLoader):
        return StreamPart(loader, world)
    return EveryOther(loader, world) if world.size > 1 else loader


class EveryOther:
    """Every so manieth batch of rows in memory. The position is that of all processes."""

    def __init__(self, loader: Loader, world: World) -> None:
        self._loader, self._world = loader, world

    def __next__(self) -> Batch:
        dealt = [next(self._loader) for _ in range(self._world.size)]
        return dealt[self._world.rank]

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position, whatever the number of processes was."""
        self._loader.load_state_dict(state)

    def close(self) -> None:
        """Nothing works for rows in memory."""


class StreamPart:
    """The stream of this process's shard. The position is a list of all processes' positions, of
    one if there is one."""

    def __init__(self, stream: StreamLoader, world: World) -> None:
        self._stream, self._world = stream, world

    def __next__(self) -> Batch:
        return next(self._stream)

    def state_dict(self) -> dict[str, Any]:
        """The positions, as JSON values. All processes must ask together."""
        return {"processes": self._world.collect(self._stream.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to this process's saved position. Raises UsageError for another number of them."""
        parts = state["processes"]
        if len(parts) != self._world.size:
            raise UsageError(
                f"the saved run divided its streams among {len(parts)} processes, this one has "
                f"{self._world.size}; use as many, or start anew with resume=never"
            )
        self._stream.load_state_dict(parts[self._world.rank])

    @property
    def mixture(self) -> Mixture:
        """What chooses the source of this process's next row; its weights may change any time."""
        return self._stream.mixture

    @property
    def counts(self) -> dict[str, int]:
        """Records of all processes' shards so far that were left out as too long ("skipped") or cut
        ("truncated"). All processes must ask together."""
        own = self._stream.counts
        totals = self._world.sum(own.values())
        return {key: int(total) for key, total in zip(own, totals, strict=True)}

    def close(self) -> None:
        """Stop the workers."""
        self._stream.close()
