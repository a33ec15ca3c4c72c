"""The model `wrinklefree` of lm-eval: artifacts, .gguf files and servers, as wf-eval runs them.

`wf lm-eval run --model wrinklefree --model_args model=student.gguf --tasks ...`
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

# NOTE: lm-eval registers its own models only while there are none, and ours is one.
import lm_eval.models  # noqa: F401
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.eval.backend import Question, open_backend
from wrinklefree.eval.choices import shortened

log = logging.getLogger(__name__)

_MAX_TOKENS = 256  # of an answer whose task gives no limit, as lm-eval's own models have it


@register_model("wrinklefree")
class WrinklefreeLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """Prompt and continuation are tokenized apart, as in training; no chat template.

    model, backend, revision: those of wf-eval. batch_size: questions asked at once, 8 if "auto".
    device and max_batch_size come from lm-eval's command line to every model; batches change no
    score here, and models run on the CPU. Raises as `open_backend` does, and UsageError for other
    arguments.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        backend: str = "auto",
        revision: str | None = None,
        batch_size: int | str = "auto",
        device: str | None = None,
        max_batch_size: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        if unknown or model is None:
            wrong = f"{', '.join(unknown)} unknown" if unknown else "no model"
            raise UsageError(
                f"--model_args: {wrong}; give model=DIRECTORY, FILE.gguf or URL, and if needed "
                "backend= and revision="
            )
        self._backend = open_backend(model, backend=backend, revision=revision)
        self._batch = 8 if str(batch_size).startswith("auto") else int(batch_size)
        self._num_truncated = 0

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, is greedy) of each (context, continuation)."""
        questions = []
        # The continuations of one context follow each other: its tokens are computed once.
        for context, group in groupby(requests, lambda request: request.args[0]):
            choices = [self._encode(request.args[1]) for request in group]
            if not all(choices):
                raise UsageError("an empty continuation has no likelihood")
            longest = max(map(len, choices))
            fitted = self._fitted(self._context_ids(context), longest, num_requests=len(choices))
            questions.append(Question(fitted, choices))
        return self._score(questions, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood in nats of each whole text, in windows of the full context."""
        length = self._backend.max_context
        windows: list[list[tuple[list[int], list[int]]]] = []
        for request in requests:
            ids = self._encode(request.args[0])
            rolling = get_rolling_token_windows(ids, self._begin(), length - 1, 1)
            windows.append([make_disjoint_window(window) for window in rolling])
        questions = [
            Question(list(context), [list(part)]) for row in windows for context, part in row
        ]
        scores = iter(self._score(questions, disable_tqdm))
        return [sum(next(scores)[0] for _ in row) for row in windows]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to the task's stop strings; UsageError when it asks to sample."""
        answers = []
        for request in tqdm(requests, disable=disable_tqdm, desc="generate_until"):
            context, options = request.args
            if options.get("do_sample") and options.get("temperature", 1) > 0:
                raise UsageError("the model wrinklefree only generates greedily: do_sample=false")
            until = options.get("until") or []
            max_tokens = int(options.get("max_gen_toks", _MAX_TOKENS))
            prompt = self._fitted(self._context_ids(context), max_tokens, num_requests=1)
            stop = [until] if isinstance(until, str) else list(until)
            (answer,) = self._backend.generate([prompt], max_tokens=max_tokens, stop=stop)
            answers.append(answer.text)
        return answers

    def _score(self, questions: list[Question], disable_tqdm: bool) -> list[tuple[float, bool]]:
        results = []
        with tqdm(total=len(questions), disable=disable_tqdm, desc="loglikelihood") as bar:
            for start in range(0, len(questions), self._batch):
                part = questions[start : start + self._batch]
                for row in self._backend.score(part):
                    results += [(score.logprob, score.is_greedy) for score in row]
                if any(logprob != logprob for logprob, _ in results):
                    raise FormatError("the model gives NaN log-probabilities on this task")
                bar.update(len(part))
        return results

    def _fitted(self, context: list[int], num_answer: int, *, num_requests: int) -> list[int]:
        """The context of so many requests, or its end where it does not fit before an answer of
        `num_answer` tokens."""
        room = self._backend.max_context - num_answer
        fitted = shortened(context, room, self._backend.bos_id)
        if not fitted:
            raise UsageError(f"an answer of {num_answer} tokens leaves no room for its context")
        if fitted is not context:
            if not self._num_truncated:
                log.warning(
                    "a context of %d tokens lost its front to fit in %d; "
                    "`num_truncated` in the results counts such requests",
                    len(context),
                    self._backend.max_context,
                )
            self._num_truncated += num_requests
        return fitted

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special=False)

    def _context_ids(self, context: str) -> list[int]:
        return self._backend.encode(context, add_special=True) or [self._begin()]

    def _begin(self) -> int:
        """What a whole text is scored after: the end token where there is no begin token, as
        lm-eval's own models have it."""
        for token in (self._backend.bos_id, self._backend.eos_id):
            if token is not None:
                return token
        raise UsageError(
            "a whole text is scored after a begin or end token, and this model has none (a server "
            "tells no end token: give model=DIRECTORY or model=FILE.gguf)"
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Always UsageError; lm-eval calls it before the first request."""
        raise UsageError("the model wrinklefree knows no chat: leave out --apply_chat_template")

    def get_model_info(self) -> dict[str, Any]:
        """For the `config` of lm-eval's results, which asks after the last request."""
        return {
            "model_backend": self._backend.name,
            "model_context": self._backend.max_context,
            "num_truncated": self._num_truncated,
        }

    @property
    def tokenizer_name(self) -> str:
        """In the cache keys of lm-eval; prompts depend on nothing but their text."""
        return self._backend.name


def main(arguments: Sequence[str]) -> None:
    """lm-eval's own command line, in which the model `wrinklefree` is known."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
