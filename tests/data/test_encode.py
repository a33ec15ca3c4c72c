"""Tokens of records: those of the tokenizer itself, and articles that are cut to fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wrinklefree.data.encode import IGNORE, Encoder
from wrinklefree.data.packing import tokenize
from wrinklefree.data.records import SummaryRecord, TextRecord, summary_prompt

TEXTS = ["Once upon a time", "naïve 🚀 \n\n 12345  tabs\t", "<s> no bos </s>", " "]


@pytest.mark.parametrize("name", ["stories260k_hf", "tokenizer_smollm2"])
def test_text_is_what_the_tokenizer_makes_of_it_and_ends(name: str, data_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / name)
    pieces = Encoder(tokenizer, max_length=8)([TextRecord(text) for text in TEXTS]).pieces
    end = [tokenizer.eos_token_id]
    # The third text of stories260K spells its end token.
    expected = [ids if ids[-1:] == end else ids + end for ids in tokenizer(TEXTS)["input_ids"]]
    assert [piece.tokens.tolist() for piece in pieces] == expected
    assert [piece.targets.tolist() for piece in pieces] == [[*ids[1:], IGNORE] for ids in expected]


def test_an_end_token_of_the_tokenizer_itself_is_not_doubled(data_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "stories260k_hf")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    (piece,) = Encoder(tokenizer, max_length=8)([TextRecord("One day")]).pieces
    assert piece.tokens.tolist() == tokenizer("One day")["input_ids"]
    assert piece.tokens.tolist().count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("name", ["stories260k_hf", "tokenizer_smollm2"])
def test_an_empty_text_is_no_document(name: str, data_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / name)
    assert not Encoder(tokenizer, max_length=8)([TextRecord("")]).pieces


def test_padding_and_truncation_of_the_file_do_not_count(
    tokenizer: PreTrainedTokenizerBase, data_dir: Path
) -> None:
    other = AutoTokenizer.from_pretrained(data_dir / "stories260k_hf")
    other.backend_tokenizer.enable_truncation(4)
    other.backend_tokenizer.enable_padding(length=12)
    texts = [TextRecord(text) for text in TEXTS]
    got, expected = (Encoder(t, max_length=8)(texts).pieces for t in (other, tokenizer))
    assert [p.tokens.tolist() for p in got] == [p.tokens.tolist() for p in expected]


@pytest.fixture(scope="session")
def articles(data_dir: Path) -> list[SummaryRecord]:
    lines = (data_dir / "cnn_dailymail" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:20]]
    return [SummaryRecord(row["article"], f" {row['highlights']}") for row in rows]


def test_articles_are_cut_and_summaries_are_not(
    articles: list[SummaryRecord], data_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "tokenizer_smollm2")
    rows = tokenize(articles, tokenizer, max_length=256)
    assert len(rows) == 20
    assert rows.skipped == 0
    assert rows.truncated > 10
    for index, record in enumerate(articles):
        tokens, targets, _ = rows.row(index)
        answer = [*tokenizer(record.completion)["input_ids"], tokenizer.eos_token_id]
        assert targets[targets != IGNORE].tolist() == answer
        prompt = tokenizer.decode(tokens[: len(tokens) - len(answer)])
        kept = prompt.removeprefix("Article: ").removesuffix("\nSummary:")
        assert record.article.strip().startswith(kept)
        # What evaluation would tokenize as one text.
        assert tokenizer(summary_prompt(kept))["input_ids"] == tokens[: -len(answer)].tolist()
    assert rows.lengths.max() > 240  # not much room is wasted


@pytest.mark.parametrize("start", ["", "Beijing, May 1 "])
def test_an_article_without_spaces_keeps_what_fits(start: str, data_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "tokenizer_smollm2")
    record = SummaryRecord(start + "今天北京的天气很好，孩子们在公园里玩耍。" * 40, " 好")
    rows = tokenize([record], tokenizer, max_length=128)
    assert rows.truncated == 1
    assert rows.lengths[0] > 100  # what fits is estimated
    tokens, targets, _ = rows.row(0)
    prompt = tokenizer.decode(tokens[: np.flatnonzero(targets != IGNORE)[0] + 1])
    kept = prompt.removeprefix("Article: ").removesuffix("\nSummary:")
    assert record.article.startswith(kept)  # whole characters


def test_a_summary_that_leaves_no_room_is_skipped(tokenizer: PreTrainedTokenizerBase) -> None:
    long = SummaryRecord("A dog ran.", " word" * 60)
    short = SummaryRecord("A dog ran. " * 30, " A dog")
    rows = tokenize([long, short], tokenizer, max_length=40)
    assert (len(rows), rows.skipped, rows.truncated) == (1, 1, 1)
    assert np.count_nonzero(rows.targets != IGNORE) == rows.num_labels
