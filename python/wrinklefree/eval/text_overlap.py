"""ROUGE and BLEU of generated texts, both times 100, and their mean as BitDistill reports it.

ROUGE: arXiv W04-1013 by rouge_score, F-measure with Porter's stemmer, the mean over texts; Lsum
takes every line as a sentence. BLEU: corpus BLEU of sacrebleu, whose counts add up over texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from wrinklefree.errors import UsageError
from wrinklefree.eval.estimates import Floats, Metric

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_ORDERS = 4  # n-grams of BLEU


def check_packages() -> None:
    """Raises UsageError when the packages of the extra `eval` are missing: known before texts are
    generated, not after."""
    for package in ("rouge_score", "sacrebleu"):
        if find_spec(package) is None:
            raise UsageError(f"cnn_dailymail needs {package}; pip install 'wrinklefree[eval]'")


def text_overlap(texts: Sequence[str], references: Sequence[str]) -> tuple[Metric, ...]:
    """rouge1, rouge2, rougeL, rougeLsum, bleu and avg, their mean."""
    rouge, bleu = _rouge(texts, references), _bleu_counts(texts, references)
    total = len(texts)

    def mean(sums: Floats) -> Floats:
        return sums[..., 0] / total

    def average(sums: Floats) -> Floats:
        width = len(ROUGE)
        rouges: Floats = sums[..., :width].sum(axis=-1) / total
        return (rouges + _bleu(sums[..., width:])) / (width + 1)

    metrics = [Metric(name, rouge[:, [index]], mean) for index, name in enumerate(ROUGE)]
    both = np.concatenate([rouge, bleu], axis=1)
    return (*metrics, Metric("bleu", bleu, _bleu), Metric("avg", both, average))


def _rouge(texts: Sequence[str], references: Sequence[str]) -> Floats:
    """[texts, 4]: F-measures times 100, in the order of ROUGE."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(references, texts, strict=True)]
    return np.array([[100 * score[name].fmeasure for name in ROUGE] for score in scores])


def _bleu_counts(texts: Sequence[str], references: Sequence[str]) -> Floats:
    """[texts, 10]: matching and all n-grams for n = 1 to 4, length of text and of reference."""
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(effective_order=True)  # changes a sentence's score, which is not used
    scores = [
        scorer.sentence_score(text, [ref]) for text, ref in zip(texts, references, strict=True)
    ]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores]
    return np.array(rows, dtype=np.float64)


def _bleu(sums: Floats) -> Floats:
    """Corpus BLEU of summed counts [..., 10]."""
    from sacrebleu.metrics.bleu import BLEU

    def score(row: Floats) -> float:
        *ngrams, text_length, reference_length = (int(count) for count in row)
        found, total = ngrams[:_ORDERS], ngrams[_ORDERS:]
        return float(BLEU.compute_bleu(found, total, text_length, reference_length).score)

    return np.apply_along_axis(score, -1, sums)
