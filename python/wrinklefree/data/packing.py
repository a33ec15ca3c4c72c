"""Token rows: documents packed to max_length, prompt/completion pairs one to a row.

`targets[t]` is the token that follows `tokens[t]` (already shifted), or IGNORE where no loss is
taken. `documents[t]` numbers the documents inside a row: attention, labels and positions never
cross from one to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wrinklefree.data.sources import PairRecord, Record, TextRecord
from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
PADDING = -1  # document number of a padding position
TOKENIZER_BATCH = 256  # records per call; the Rust tokenizer works on batches in parallel

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Ragged rows, stored flat: row i is `[offsets[i]:offsets[i + 1]]` of each array."""

    tokens: Int32Array
    targets: Int32Array
    documents: Int32Array
    offsets: npt.NDArray[np.int64]
    skipped: int  # records longer than max_length

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


@dataclass(frozen=True, slots=True)
class _Piece:
    tokens: list[int]
    targets: list[int]
    fills_a_row: bool  # a prompt with its completion shares its row with nothing


def tokenize(
    records: Iterable[Record], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> TokenRows:
    """Rows of at most `max_length` tokens. Raises UsageError when no row remains.

    Text fills rows of exactly `max_length` (the last may be shorter); a document that does not
    fit goes on in the next row. Pairs longer than `max_length` are skipped and counted.
    """
    rows: list[list[_Piece]] = []
    open_row: list[_Piece] = []
    used = skipped = 0
    for piece in _pieces(records, tokenizer):
        if piece.fills_a_row:
            if len(piece.tokens) > max_length:
                skipped += 1
            else:
                rows.append([piece])
            continue
        start = 0
        while start < len(piece.tokens):
            taken = min(max_length - used, len(piece.tokens) - start)
            part = slice(start, start + taken)
            open_row.append(replace(piece, tokens=piece.tokens[part], targets=piece.targets[part]))
            used, start = used + taken, start + taken
            if used == max_length:
                rows.append(open_row)
                open_row, used = [], 0
    if open_row:
        rows.append(open_row)
    if not rows:
        detail = f"all {skipped} records are longer than data.max_length={max_length}"
        raise UsageError(f"no training rows: {detail if skipped else 'the data is empty'}")
    return _flatten(rows, skipped)


def _pieces(records: Iterable[Record], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Piece]:
    stream = iter(records)
    while batch := list(islice(stream, TOKENIZER_BATCH)):
        texts = [record.text for record in batch if isinstance(record, TextRecord)]
        pairs = [record for record in batch if isinstance(record, PairRecord)]
        for tokens in _encode(tokenizer, texts, special=True):
            yield _Piece(tokens, [*tokens[1:], IGNORE], fills_a_row=False)
        prompts = _encode(tokenizer, [pair.prompt for pair in pairs], special=True)
        completions = _encode(tokenizer, [pair.completion for pair in pairs], special=False)
        for pair, prompt, completion in zip(pairs, prompts, completions, strict=True):
            ends = pair.ends and tokenizer.eos_token_id is not None
            answer = [*completion, tokenizer.eos_token_id] if ends else completion
            tokens = [*prompt, *answer]
            # What follows each token; the prompt's own tokens are no labels.
            targets = [*([IGNORE] * len(prompt)), *answer, IGNORE][1:]
            yield _Piece(tokens, targets, fills_a_row=True)


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool
) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: a document longer than the context is cut into rows, no reason to warn.
    encoded: Any = tokenizer(texts, add_special_tokens=special, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _flatten(rows: list[list[_Piece]], skipped: int) -> TokenRows:
    pieces = [piece for row in rows for piece in row]
    numbers = [
        number for row in rows for number, piece in enumerate(row) for _ in range(len(piece.tokens))
    ]
    lengths = [sum(len(piece.tokens) for piece in row) for row in rows]
    return TokenRows(
        tokens=np.fromiter(chain.from_iterable(p.tokens for p in pieces), np.int32),
        targets=np.fromiter(chain.from_iterable(p.targets for p in pieces), np.int32),
        documents=np.array(numbers, np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        skipped=skipped,
    )
