"""Batches in an order that depends on the seed alone, from a position that can be saved.

Rows of equal length are put into one batch where possible, so that little is spent on padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from wrinklefree.data.encode import IGNORE
from wrinklefree.data.packing import PADDING, TokenRows
from wrinklefree.errors import UsageError

# Rows are sorted by length inside windows of this many batches; the windows stay random.
WINDOW_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right to the longest. All tensors are int64 [B, L]."""

    tokens_BL: torch.Tensor
    targets_BL: torch.Tensor
    documents_BL: torch.Tensor
    positions_BL: torch.Tensor
    row_indices: tuple[int, ...]

    @property
    def is_label_BL(self) -> torch.Tensor:
        """Where the label loss is taken."""
        return self.targets_BL != IGNORE

    @property
    def is_token_BL(self) -> torch.Tensor:
        """Where there is a token, not padding."""
        return self.documents_BL != PADDING

    @property
    def is_packed(self) -> bool:
        """Whether a row holds more than one document, so that attention needs a mask."""
        return bool((self.documents_BL > 0).any())

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.tokens_BL.to(device),
            self.targets_BL.to(device),
            self.documents_BL.to(device),
            self.positions_BL.to(device),
            self.row_indices,
        )


class Batches(Protocol):
    """What a trainer reads: endless batches, and the position between two of them."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UsageError when the data or its order is another one."""

    def close(self) -> None:
        """Stop whatever works for it."""


def collate(rows: TokenRows, indices: tuple[int, ...], *, pad_to: int = 0) -> Batch:
    """One batch of the rows; `pad_to` forces more padding (tests show that it changes nothing)."""
    picked = [rows.row(index) for index in indices]
    length = max(pad_to, *(len(tokens) for tokens, _, _ in picked))
    shape = (len(picked), length)
    # Padding continues the positions: a restart would make transformers look for a new document.
    tokens, positions = np.zeros(shape, np.int64), np.tile(np.arange(length), (len(picked), 1))
    targets, documents = np.full(shape, IGNORE, np.int64), np.full(shape, PADDING, np.int64)
    for number, (row_tokens, row_targets, row_documents) in enumerate(picked):
        size = len(row_tokens)
        tokens[number, :size] = row_tokens
        targets[number, :size] = row_targets
        documents[number, :size] = row_documents
        positions[number, :size] = _restarting_positions(row_documents)
    return Batch(
        tokens_BL=torch.from_numpy(tokens),
        targets_BL=torch.from_numpy(targets),
        documents_BL=torch.from_numpy(documents),
        positions_BL=torch.from_numpy(positions),
        row_indices=indices,
    )


def _restarting_positions(documents: np.ndarray[Any, np.dtype[np.int32]]) -> np.ndarray[Any, Any]:
    index = np.arange(len(documents))
    starts = np.concatenate([[True], documents[1:] != documents[:-1]])
    return index - np.maximum.accumulate(np.where(starts, index, 0))


class Loader:
    """Endless batches over `rows`, epoch after epoch."""

    def __init__(self, rows: TokenRows, *, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.batches_per_epoch = -(-len(rows) // batch_size)
        self._fingerprint = rows.fingerprint()  # reads all rows: once
        self._epoch = 0
        self._next_batch = 0
        self._order = self._shuffle(0)

    def __next__(self) -> Batch:
        if self._next_batch == self.batches_per_epoch:
            self._epoch, self._next_batch = self._epoch + 1, 0
            self._order = self._shuffle(self._epoch)
        indices = self._order[self._next_batch]
        self._next_batch += 1
        return collate(self.rows, indices)

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values."""
        return {
            "epoch": self._epoch,
            "batch": self._next_batch,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "rows": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UsageError when the data or its order is another one."""
        own = self.state_dict()
        for key in ("rows", "seed", "batch_size"):
            if state[key] != own[key]:
                raise UsageError(
                    f"the saved run used other data ({key} {state[key]}, now {own[key]}); "
                    "restore it, or start anew with resume=never"
                )
        self._epoch, self._next_batch = int(state["epoch"]), int(state["batch"])
        self._order = self._shuffle(self._epoch)

    def close(self) -> None:
        """Nothing works for rows in memory."""

    def _shuffle(self, epoch: int) -> list[tuple[int, ...]]:
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        order = generator.permutation(len(self.rows))
        lengths = self.rows.lengths
        window = self.batch_size * WINDOW_BATCHES
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches += [
                tuple(int(index) for index in part[first : first + self.batch_size])
                for first in range(0, len(part), self.batch_size)
            ]
        return [batches[index] for index in generator.permutation(len(batches))]
