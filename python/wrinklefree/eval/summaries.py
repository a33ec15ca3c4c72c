"""CNN/DailyMail: summaries are generated greedily and compared with the highlights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wrinklefree.data.encode import fit_summary
from wrinklefree.data.records import SUMMARY_END, SUMMARY_START, SummaryRecord
from wrinklefree.errors import UsageError
from wrinklefree.eval.backend import Backend
from wrinklefree.eval.estimates import Estimate, estimate
from wrinklefree.eval.outcome import Counts, Outcome, Progress, context_of
from wrinklefree.eval.text_overlap import text_overlap

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


@dataclass(frozen=True, slots=True)
class SummaryTask:
    """Articles with their summaries; an answer has at most `max_tokens` tokens."""

    data: str
    records: Sequence[SummaryRecord]
    max_tokens: int
    name: str = "cnn_dailymail"

    @property
    def protocol(self) -> dict[str, Any]:
        """As the protocol says."""
        return {
            "prompt": f"{SUMMARY_START}{{article}}{SUMMARY_END}",
            "split": "test",
            "answer": "greedy, up to the end token",
            "max_tokens": self.max_tokens,
            "rouge": "rouge_score, stemmer, rougeLsum over lines",
            "bleu": "sacrebleu corpus BLEU, 13a",
        }

    @property
    def baselines(self) -> dict[str, dict[str, Estimate]]:
        """The first three sentences of each article."""
        leads = ["\n".join(sentences(record.article)[:3]) for record in self.records]
        metrics = text_overlap(leads, self._highlights)
        return {"lead-3": {metric.name: estimate(metric) for metric in metrics}}

    def run(
        self, backend: Backend, *, context: int | None, batch: int, progress: Progress
    ) -> Outcome:
        """As the protocol says; an article is cut at its end to leave room for the answer."""
        context = context_of(backend, context, backend.max_context)
        room = context - self.max_tokens
        prompts, truncated = [], 0

        def encode(text: str) -> list[int]:
            return backend.encode(text, add_special=True)

        for number, record in enumerate(self.records, 1):
            whole = encode(record.prompt())
            prompt = fit_summary(record, whole, room, encode)
            if len(prompt) > room:
                raise UsageError(
                    f"record {number}: a context of {context} has no room for a prompt beside "
                    f"{self.max_tokens} tokens of answer; lower --max-tokens"
                )
            truncated += prompt is not whole
            prompts.append(prompt)
        answers = []
        for start in range(0, len(prompts), batch):
            progress(start, len(prompts))
            part = prompts[start : start + batch]
            answers += backend.generate(part, max_tokens=self.max_tokens)
        progress(len(prompts), len(prompts))
        counts = Counts(
            len(prompts),
            sum(map(len, prompts)),
            truncated,
            sum(prompt[0] == backend.bos_id for prompt in prompts),
            context,
            sum(not answer.is_finished for answer in answers),
        )
        summaries = [answer.text.strip() for answer in answers]
        return Outcome(text_overlap(summaries, self._highlights), counts)

    @property
    def _highlights(self) -> list[str]:
        return [record.completion.strip() for record in self.records]


def sentences(text: str) -> list[str]:
    """A plain split after full stops, question and exclamation marks."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence]
