"""Rows: what is a label, where documents end, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from wrinklefree.data.encode import IGNORE
from wrinklefree.data.packing import tokenize
from wrinklefree.data.records import PairRecord, TextRecord
from wrinklefree.errors import UsageError

TEXTS = ["Once upon a time", "Lily saw a big red ball in the park.", "The end", "One day"]


def test_documents_fill_rows_and_keep_every_token(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = tokenize([TextRecord(text) for text in TEXTS], tokenizer, max_length=8)
    assert rows.lengths[:-1].tolist() == [8] * (len(rows) - 1)
    expected = []
    for text in TEXTS:
        expected += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert rows.tokens.tolist() == expected


def test_targets_never_cross_documents(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = tokenize([TextRecord(text) for text in TEXTS], tokenizer, max_length=8)
    expected = []
    for text in TEXTS:
        expected += [*tokenizer(text)["input_ids"][1:], tokenizer.eos_token_id, IGNORE]
    # Also where a document goes on in the next row, its next token is the target.
    assert rows.targets.tolist() == expected


def test_document_numbers_restart_in_each_row(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = tokenize([TextRecord("a"), TextRecord("b")] * 8, tokenizer, max_length=10)
    for index in range(len(rows)):
        _, targets, documents = rows.row(index)
        assert documents[0] == 0
        assert set(np.diff(documents)) <= {0, 1}
        inner_ends = np.flatnonzero(np.diff(documents))
        assert (targets[inner_ends] == IGNORE).all()


def test_only_the_completion_is_a_label(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt, completion = "What is red?", " ball"
    rows = tokenize([PairRecord(prompt, completion, ends=False)], tokenizer, max_length=64)
    tokens, targets, _ = rows.row(0)
    answer = tokenizer(completion, add_special_tokens=False)["input_ids"]
    question = tokenizer(prompt)["input_ids"]
    assert tokens.tolist() == question + answer
    labelled = np.flatnonzero(targets != IGNORE)
    assert labelled.tolist() == list(range(len(question) - 1, len(tokens) - 1))
    assert targets[labelled].tolist() == answer


def test_an_answer_ends_but_a_choice_does_not(tokenizer: PreTrainedTokenizerBase) -> None:
    ends = tokenize([PairRecord("a", "b", ends=True)], tokenizer, max_length=64)
    open_end = tokenize([PairRecord("a", "b", ends=False)], tokenizer, max_length=64)
    assert ends.tokens.tolist() == [*open_end.tokens.tolist(), tokenizer.eos_token_id]
    assert ends.num_labels == open_end.num_labels + 1


def test_long_pairs_are_skipped_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    records = [PairRecord("short", " yes", ends=False), PairRecord("long " * 50, " no", ends=False)]
    rows = tokenize(records, tokenizer, max_length=16)
    assert (len(rows), rows.skipped) == (1, 1)
    with pytest.raises(UsageError, match=r"all 2 records are longer than data\.max_length=2"):
        tokenize(records, tokenizer, max_length=2)


def test_no_records_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UsageError, match="empty"):
        tokenize([], tokenizer, max_length=16)


def test_fingerprint_follows_the_content(tokenizer: PreTrainedTokenizerBase) -> None:
    one = tokenize([TextRecord("one two")], tokenizer, max_length=16)
    same = tokenize([TextRecord("one two")], tokenizer, max_length=16)
    other = tokenize([TextRecord("one three")], tokenizer, max_length=16)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
