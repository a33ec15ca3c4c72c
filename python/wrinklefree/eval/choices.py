"""Choice tasks by likelihood: the answer is the choice with the largest summed log-probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wrinklefree.data.records import ChoiceRecord
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.backend import Backend, Question
from wrinklefree.eval.classification import accuracy
from wrinklefree.eval.estimates import Estimate, Metric
from wrinklefree.eval.outcome import Counts, Outcome, Progress, context_of

MetricOf = Callable[[Sequence[int], Sequence[int]], Metric]  # of predictions and labels


@dataclass(frozen=True, slots=True)
class Answers:
    """Predicted choice and log-likelihoods (nats) per record, and what happened to the inputs."""

    predictions: list[int]
    scores: list[list[float]]
    counts: Counts


@dataclass(frozen=True, slots=True)
class ChoiceTask:
    """Records with the metrics that they are judged by."""

    name: str
    data: str
    records: Sequence[ChoiceRecord]
    metrics: tuple[MetricOf, ...] = (accuracy,)
    protocol: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, dict[str, Estimate]] = field(default_factory=dict)

    def run(
        self, backend: Backend, *, context: int | None, batch: int, progress: Progress
    ) -> Outcome:
        """As the protocol says; the default context is the model's own."""
        context = context_of(backend, context, backend.max_context)
        answers = ask(backend, self.records, context=context, batch=batch, progress=progress)
        labels = [record.label for record in self.records]
        metrics = tuple(metric(answers.predictions, labels) for metric in self.metrics)
        return Outcome(metrics, answers.counts)


def ask(
    backend: Backend,
    records: Sequence[ChoiceRecord],
    *,
    context: int,
    batch: int = 1,
    progress: Progress = lambda done, total: None,
) -> Answers:
    """Scores every choice of every record; ties go to the first choice.

    Prompt and choice are tokenized apart and concatenated, as in training. A prompt that does not
    fit `context` together with its longest choice loses tokens at its front (never its
    begin-of-sequence token) and is counted. Raises UsageError naming a record that cannot be
    scored, FormatError when the model gives NaN.
    """
    questions, truncated, with_bos = [], 0, 0
    for number, record in enumerate(records, 1):
        prompt = backend.encode(record.prompt, add_special=True)
        choices = [backend.encode(choice, add_special=False) for choice in record.choices]
        if not prompt or not all(choices):
            raise UsageError(f"record {number}: an empty prompt or choice has no likelihood")
        room = context - max(map(len, choices))
        fitted = shortened(prompt, room, backend.bos_id)
        if not fitted:
            raise UsageError(f"record {number}: a choice alone fills the context of {context}")
        truncated += fitted is not prompt
        with_bos += prompt[0] == backend.bos_id
        questions.append(Question(fitted, choices))
    scores: list[list[float]] = []
    for start in range(0, len(questions), batch):
        progress(start, len(questions))
        asked = backend.score(questions[start : start + batch])
        scores += [[score.logprob for score in row] for row in asked]
    progress(len(questions), len(questions))
    if any(score != score for row in scores for score in row):
        raise FormatError("the model gives NaN log-probabilities on this task")
    predictions = [max(range(len(row)), key=row.__getitem__) for row in scores]
    tokens = sum(len(question.prompt) + sum(map(len, question.choices)) for question in questions)
    counts = Counts(len(records), tokens, truncated, with_bos, context)
    return Answers(predictions, scores, counts)


def shortened(prompt: list[int], room: int, bos_id: int | None) -> list[int]:
    """The prompt itself if it fits `room` tokens, else its begin token and the last that fit.

    Empty when nothing of it would be left.
    """
    if len(prompt) <= room:
        return prompt
    head = prompt[:1] if prompt[0] == bos_id else []
    kept = room - len(head)
    return head + prompt[-kept:] if kept > 0 else []
