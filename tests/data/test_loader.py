"""Batches: the order, the position, the padding."""

from __future__ import annotations

import numpy as np
import pytest

from wrinklefree.data.encode import IGNORE
from wrinklefree.data.loader import Batch, Loader, collate
from wrinklefree.data.packing import PADDING, TokenRows
from wrinklefree.errors import UsageError


def ragged_rows(lengths: list[int], *, first_token: int = 0) -> TokenRows:
    total = sum(lengths)
    tokens = np.arange(first_token, first_token + total, dtype=np.int32)
    return TokenRows(
        tokens,
        tokens + 1,
        np.zeros(total, np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        0,
    )


ROWS = ragged_rows([3, 5, 2, 5, 3, 7, 2] * 6)


def take(loader: Loader, number: int) -> list[Batch]:
    return [next(loader) for _ in range(number)]


def indices(batches: list[Batch]) -> list[tuple[int, ...]]:
    return [batch.row_indices for batch in batches]


def test_an_epoch_has_every_row_once() -> None:
    loader = Loader(ROWS, batch_size=4, seed=0)
    for _ in range(2):
        seen = [
            row for batch in take(loader, loader.batches_per_epoch) for row in batch.row_indices
        ]
        assert sorted(seen) == list(range(len(ROWS)))


def test_the_seed_decides_the_order() -> None:
    first, same, other = (indices(take(Loader(ROWS, batch_size=4, seed=s), 9)) for s in (1, 1, 2))
    assert first == same != other


def test_epochs_differ() -> None:
    loader = Loader(ROWS, batch_size=4, seed=0)
    size = loader.batches_per_epoch
    assert indices(take(loader, size)) != indices(take(loader, size))


@pytest.mark.parametrize("position", [0, 3, 11, 25])
def test_a_restored_loader_goes_on(position: int) -> None:
    loader = Loader(ROWS, batch_size=4, seed=5)
    take(loader, position)
    state = loader.state_dict()
    expected = indices(take(loader, 15))
    restored = Loader(ROWS, batch_size=4, seed=5)
    restored.load_state_dict(state)
    assert indices(take(restored, 15)) == expected


def test_other_data_is_refused() -> None:
    state = Loader(ROWS, batch_size=4, seed=5).state_dict()
    with pytest.raises(UsageError, match="resume=never"):
        Loader(ragged_rows([3] * 42), batch_size=4, seed=5).load_state_dict(state)


def test_equal_lengths_go_together() -> None:
    loader = Loader(ragged_rows([4, 9] * 32), batch_size=8, seed=0)
    for batch in take(loader, loader.batches_per_epoch):
        assert bool(batch.is_token_BL.all())


def test_padding_is_no_token_and_no_label() -> None:
    batch = collate(ROWS, (0, 1), pad_to=9)
    assert batch.tokens_BL.shape == (2, 9)
    assert batch.is_token_BL.sum(1).tolist() == [3, 5]
    assert batch.documents_BL[0, 3:].eq(PADDING).all()
    assert batch.targets_BL[0, 3:].eq(IGNORE).all()


def test_positions_restart_with_a_document() -> None:
    rows = ragged_rows([6])
    rows.documents[:] = [0, 0, 0, 1, 1, 2]
    batch = collate(rows, (0,))
    assert batch.positions_BL.tolist() == [[0, 1, 2, 0, 1, 0]]
    assert batch.is_packed
