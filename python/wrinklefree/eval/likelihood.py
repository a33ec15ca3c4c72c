"""Choice tasks by likelihood: the answer is the choice with the largest summed log-probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wrinklefree.errors import UsageError
from wrinklefree.eval.backend import Backend, Question
from wrinklefree.eval.report import InputCounts
from wrinklefree.eval.tasks import ChoiceRecord


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """Predicted choice and log-likelihoods (nats) per record, and what happened to the inputs."""

    predictions: list[int]
    scores: list[list[float]]
    inputs: InputCounts

    def correct(self, records: Sequence[ChoiceRecord]) -> int:
        return sum(
            prediction == record.label
            for prediction, record in zip(self.predictions, records, strict=True)
        )


def run_choices(backend: Backend, records: Sequence[ChoiceRecord], *, context: int) -> ChoiceResult:
    """Scores every choice of every record; ties go to the first choice.

    Prompt and choice are tokenized apart and concatenated, as in training. A prompt that does not
    fit `context` together with its longest choice loses tokens at its front (never its
    begin-of-sequence token) and is counted.
    """
    questions, truncated, with_bos = [], 0, 0
    for number, record in enumerate(records, 1):
        prompt = backend.encode(record.prompt, add_special=True)
        choices = [backend.encode(choice, add_special=False) for choice in record.choices]
        if not prompt or not all(choices):
            raise UsageError(f"record {number}: an empty prompt or choice has no likelihood")
        begins = prompt[0] == backend.bos_id
        room = context - max(map(len, choices))
        if room < 1 + begins:
            raise UsageError(f"record {number}: a choice alone fills the context of {context}")
        if len(prompt) > room:
            head = prompt[:1] if begins else []
            prompt = head + prompt[len(prompt) - room + len(head) :]
            truncated += 1
        with_bos += begins
        questions.append(Question(prompt, choices))
    scores = backend.score(questions)
    predictions = [max(range(len(row)), key=row.__getitem__) for row in scores]
    tokens = sum(len(question.prompt) + sum(map(len, question.choices)) for question in questions)
    return ChoiceResult(predictions, scores, InputCounts(len(records), truncated, with_bos, tokens))
