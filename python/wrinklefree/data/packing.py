"""Token rows: documents packed to max_length, prompt/completion pairs one to a row.

Tokens and targets are those of encode.py. `documents[t]` numbers the documents inside a row:
attention, labels and positions never cross from one to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wrinklefree.data.encode import IGNORE, Encoder, Int32Array, Piece, renderable
from wrinklefree.data.records import Record
from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PADDING = -1  # document number of a padding position
TOKENIZER_BATCH = 256  # records per call; the Rust tokenizer works on batches in parallel


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Ragged rows, stored flat: row i is `[offsets[i]:offsets[i + 1]]` of each array."""

    tokens: Int32Array
    targets: Int32Array
    documents: Int32Array
    offsets: npt.NDArray[np.int64]
    skipped: int  # records longer than max_length
    truncated: int = 0  # articles that were cut to fit

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @property
    def num_labels(self) -> int:
        """Positions with a loss."""
        return int(np.count_nonzero(self.targets != IGNORE))

    def row(self, index: int) -> tuple[Int32Array, Int32Array, Int32Array]:
        """Tokens, targets and document numbers of one row."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.tokens[span], self.targets[span], self.documents[span]

    def split(self, num_first: int) -> tuple[TokenRows, TokenRows]:
        """The first rows and the rest."""
        cut = int(self.offsets[num_first])
        first = TokenRows(
            self.tokens[:cut],
            self.targets[:cut],
            self.documents[:cut],
            self.offsets[: num_first + 1],
            self.skipped,
            self.truncated,
        )
        rest = TokenRows(
            self.tokens[cut:],
            self.targets[cut:],
            self.documents[cut:],
            self.offsets[num_first:] - cut,
            0,
        )
        return first, rest

    def fingerprint(self) -> str:
        """SHA-256 of the content: keys teacher caches, guards loader positions."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.targets, self.documents, self.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def tokenize(
    records: Iterable[Record], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> TokenRows:
    """Rows of at most `max_length` tokens. Raises UsageError when no row remains.

    Text fills rows of exactly `max_length` (the last may be shorter); a document that does not
    fit goes on in the next row. Pairs and conversations have a row each; those longer than
    `max_length` are skipped and counted, articles are cut and counted.
    """
    encoder = Encoder(tokenizer, max_length=max_length)
    rows: list[list[Piece]] = []
    open_row: list[Piece] = []
    used = skipped = truncated = 0
    stream = renderable(records, tokenizer)
    while batch := list(islice(stream, TOKENIZER_BATCH)):
        encoded = encoder(batch)
        skipped, truncated = skipped + encoded.skipped, truncated + encoded.truncated
        for piece in encoded.pieces:
            if piece.is_whole:
                rows.append([piece])
                continue
            start = 0
            while start < len(piece.tokens):
                part = slice(start, min(start + max_length - used, len(piece.tokens)))
                open_row.append(piece.part(part))
                used, start = used + part.stop - start, part.stop
                if used == max_length:
                    rows.append(open_row)
                    open_row, used = [], 0
    if open_row:
        rows.append(open_row)
    if not rows:
        detail = f"all {skipped} records are longer than data.max_length={max_length}"
        raise UsageError(f"no training rows: {detail if skipped else 'the data is empty'}")
    return join_rows(rows, skipped=skipped, truncated=truncated)


def join_rows(
    rows: Sequence[Sequence[Piece]], *, skipped: int = 0, truncated: int = 0
) -> TokenRows:
    """Rows of the given pieces, each piece a document."""
    pieces = [piece for row in rows for piece in row]
    numbers = [np.full(len(p.tokens), number) for row in rows for number, p in enumerate(row)]
    lengths = [sum(len(piece.tokens) for piece in row) for row in rows]
    return TokenRows(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        targets=np.concatenate([piece.targets for piece in pieces]),
        documents=np.concatenate(numbers).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        skipped=skipped,
        truncated=truncated,
    )
