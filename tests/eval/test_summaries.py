"""Summaries and their scores, against the libraries' own corpus scores and published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from wrinklefree.data.records import SummaryRecord
from wrinklefree.errors import UsageError
from wrinklefree.eval.estimates import estimate
from wrinklefree.eval.outcome import Outcome
from wrinklefree.eval.sources import DataPaths, read_summaries
from wrinklefree.eval.summaries import SummaryTask, sentences
from wrinklefree.eval.text_overlap import text_overlap

TEXTS = [
    "It slept.\nThe cat sat on the mat today.",
    "Two dogs ran across the wide green field.",
    "nothing alike",
    "",
]
REFERENCES = [
    "The cat sat on the mat.\nIt slept all day.",
    "Two dogs were running over the wide green field.",
    "a summary of other words",
    "the answer was empty",
]


def run(backend: Any, records: list[SummaryRecord], *, max_tokens: int, context: int) -> Outcome:
    task = SummaryTask("here", records, max_tokens)
    return task.run(backend, context=context, batch=2, progress=lambda done, total: None)


def test_scores_are_those_of_the_libraries() -> None:
    values = {metric.name: metric.value for metric in text_overlap(TEXTS, REFERENCES)}
    bleu = sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score
    assert values["bleu"] == pytest.approx(bleu)
    assert 20 < bleu < 60
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(REFERENCES, TEXTS, strict=True)]
    for name in names:
        assert values[name] == pytest.approx(25 * sum(score[name].fmeasure for score in scores))
    assert values["rougeLsum"] > values["rougeL"]  # lines are sentences, in any order
    assert values["avg"] == pytest.approx(sum(values[name] for name in (*names, "bleu")) / 5)


def test_the_bleu_interval_is_that_of_sacrebleus_bootstrap() -> None:
    texts = [f"{TEXTS[index % 3]} {'so ' * (index % 5)}" for index in range(60)]
    references = [REFERENCES[index % 3] for index in range(60)]
    bleu = {metric.name: metric for metric in text_overlap(texts, references)}["bleu"]
    theirs: Any = sacrebleu.BLEU().corpus_score(texts, [references], n_bootstrap=1000)
    ours = estimate(bleu)
    assert ours.high is not None
    assert ours.low is not None
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs._ci, rel=0.15)


def test_lead_3_on_real_articles(data_dir: Path) -> None:
    _, records = read_summaries(DataPaths.of([data_dir]), 100)
    assert len(records) == 100
    lead = SummaryTask("test", records, 128).baselines["lead-3"]
    # Published for the CNN part: 29.1 / 11.1 / 25.9 (arXiv 1609.02748); and R-Lsum.
    expected = {"rouge1": 29.1, "rouge2": 11.1, "rougeLsum": 25.9}
    for name, value in expected.items():
        assert lead[name].value == pytest.approx(value, abs=3)
        assert lead[name].low < lead[name].value < lead[name].high  # type: ignore[operator]


def test_articles_are_cut_and_counted(scripted: Any) -> None:
    records = [
        SummaryRecord("short", " short"),
        SummaryRecord("one two three four five six seven eight nine", " one two"),
    ]
    outcome = run(scripted(), records, max_tokens=8, context=40)
    # Byte tokens: "Article: " and "\nSummary:" are 18, so 14 are left for the article.
    assert (outcome.counts.truncated, outcome.counts.unfinished) == (1, 1)
    assert outcome.counts.tokens == (18 + 5) + (18 + len("one two three"))
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert values["rouge1"] == pytest.approx((100 + 100) / 2)  # "short", and "one two " cut at 8


def test_an_answer_that_leaves_no_room_is_refused(scripted: Any) -> None:
    with pytest.raises(UsageError, match="record 1: a context of 40"):
        run(scripted(), [SummaryRecord("long " * 20, " x")], max_tokens=30, context=40)


def test_sentences() -> None:
    assert sentences('He said "no." Then? It ended') == ['He said "no.', "Then?", "It ended"]
