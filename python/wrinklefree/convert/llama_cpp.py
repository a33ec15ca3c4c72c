"""Mainline llama.cpp (the package xllamacpp) as a judge of a written file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree import _engine
from wrinklefree.engine import LLM
from wrinklefree.engine.logprobs import target_logprobs, top_logprobs
from wrinklefree.errors import UsageError, VerificationError

_CONTEXT = 512
_PROMPT = 16  # tokens before the first that is compared
_GREEDY_STEPS = 8
_PERPLEXITY_TOKENS = 192
_TOP = 1000  # log-probabilities asked for at once; all of them only where that is not enough

# llama.cpp quantizes activations per block of 32 or 256, the engine per token: logits are close
# and not equal.
_MAX_LOGPROB_DIFFERENCE = 0.15  # nats, of its five likeliest first tokens
_MAX_PERPLEXITY_CHANGE = 0.02
_CLEAR_MARGIN = 0.3  # nats between the two best tokens; below it, greedy texts may part


@dataclass(frozen=True, slots=True)
class PeerAgreement:
    """llama.cpp on the file against the engine on its source."""

    max_logprob_difference: float
    greedy_steps: int  # that were equal, until the margin was small
    tokens: int
    source_perplexity: float
    written_perplexity: float


def check_installed() -> None:
    """Raises UsageError without xllamacpp."""
    try:
        import xllamacpp  # noqa: F401
    except ImportError as error:
        raise UsageError(
            '--verify llama.cpp needs xllamacpp: pip install "wrinklefree[peers]"'
        ) from error


class LlamaCpp:
    """A loaded file. Raises VerificationError if llama.cpp does not load it."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = _CONTEXT
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = threads
        parameters.warmup = False
        parameters.verbosity = -1
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise VerificationError(f"llama.cpp does not load {path}: {error}") from None

    def next_tokens(
        self, prompt: Sequence[int] | str, *, steps: int, top: int
    ) -> list[dict[int, float]]:
        """{token id: log-probability} of the `top` likeliest tokens, likeliest first, of each of
        `steps` greedy steps."""
        answer = self._complete(
            prompt=prompt if isinstance(prompt, str) else list(prompt),
            n_predict=steps,
            n_probs=top,
            temperature=0.0,
            repeat_penalty=1.0,  # a file may ask for another one
        )
        # It may keep back steps whose text is no whole character.
        content = answer["choices"][0]["logprobs"]["content"]
        return [
            {entry["id"]: entry["logprob"] for entry in step["top_logprobs"]} for step in content
        ]

    def num_tokens(self, text: str) -> int:
        """Length of a text in this file's tokenizer."""
        count: int = self._complete(prompt=text, n_predict=1)["usage"]["prompt_tokens"]
        return count

    def logprobs(self, ids: Sequence[int], *, first: int, vocab: int) -> list[float]:
        """log p(ids[t] | ids[..t]) for t >= first, one request each."""
        found = []
        for position in range(first, len(ids)):
            for top in (min(_TOP, vocab), vocab):
                step = self.next_tokens(ids[:position], steps=1, top=top)
                if step and ids[position] in step[0]:
                    found.append(step[0][ids[position]])
                    break
            else:
                raise VerificationError(f"llama.cpp gives no log-probability at token {position}")
        return found

    def _complete(self, **request: Any) -> dict[str, Any]:
        answer = self._server.handle_completions(request)
        parsed: dict[str, Any] = json.loads(answer) if isinstance(answer, str) else answer
        if "choices" not in parsed:
            raise VerificationError(f"llama.cpp does not run the file: {parsed}")
        return parsed


def verify_in_llama_cpp(source: Path, written: Path, text: str) -> PeerAgreement:
    """Runs `source` in the engine and the file `written` in llama.cpp on the beginning of `text`.

    Raises UsageError without xllamacpp, VerificationError if llama.cpp does not load the file or
    they do not agree: the five likeliest first tokens within 0.15 nats, greedy tokens equal as long
    as the two best are 0.3 nats apart, perplexity within 2 %.
    """
    check_installed()
    with LLM(source) as llm:
        ids = llm.tokenizer.encode(text)[: min(_CONTEXT - 1, _PROMPT + _PERPLEXITY_TOKENS)]
        if len(ids) <= _PROMPT:
            raise UsageError(f"the text has {len(ids)} tokens: give more than {_PROMPT}")
        peer = LlamaCpp(written, threads=_engine.cpu_info()["threads"])
        difference, steps = _compare_greedy(llm, peer, ids[:_PROMPT])
        ours = llm.logprobs(ids)[_PROMPT - 1 :]
        theirs = peer.logprobs(ids, first=_PROMPT, vocab=llm.info["vocab_size"])
    agreement = PeerAgreement(
        difference,
        steps,
        len(theirs),
        math.exp(-float(np.mean(ours))),
        math.exp(-float(np.mean(theirs))),
    )
    change = agreement.written_perplexity / agreement.source_perplexity - 1
    if not difference <= _MAX_LOGPROB_DIFFERENCE or not abs(change) <= _MAX_PERPLEXITY_CHANGE:
        raise VerificationError(
            f"llama.cpp does not agree with the source: its five likeliest first tokens differ by "
            f"up to {difference:.3f} nats (allowed: {_MAX_LOGPROB_DIFFERENCE}), perplexity by "
            f"{change:+.1%} (allowed: {_MAX_PERPLEXITY_CHANGE:.0%})"
        )
    return agreement


def _compare_greedy(llm: LLM, peer: LlamaCpp, prompt: Sequence[int]) -> tuple[float, int]:
    """Largest difference among the first step's likeliest tokens, and the number of equal steps.

    Raises VerificationError where the tokens differ although the engine's choice is clear.
    """
    ids, difference = list(prompt), math.inf
    theirs = peer.next_tokens(prompt, steps=_GREEDY_STEPS, top=5)
    for step, found in enumerate(theirs):
        logits = llm.logits(ids)[-1:]
        if step == 0:
            targets = np.array([list(found)]).T  # [5, 1]: each token at the one position
            ours = target_logprobs(logits, targets)[:, 0]
            difference = float(np.abs(ours - np.array(list(found.values()))).max())
        (best, first), (_, second) = top_logprobs(logits, 2)[0]
        if first - second < _CLEAR_MARGIN:
            return difference, step
        if next(iter(found)) != best:
            raise VerificationError(
                f"greedy text differs at step {step}: llama.cpp takes token {next(iter(found))}, "
                f"the source {best}, which is {first - second:.2f} nats ahead"
            )
        ids.append(best)
    return difference, len(theirs)
