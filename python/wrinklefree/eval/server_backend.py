"""Evaluation over HTTP: an OpenAI-compatible server that echoes prompts with log-probabilities.

wf-serve and vLLM do; they also have the /tokenize that this needs. The key is $OPENAI_API_KEY.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import httpx
import numpy as np

from wrinklefree.engine.results import Score
from wrinklefree.errors import UsageError, WrinklefreeError
from wrinklefree.eval.backend import Answer, Question

_TIMEOUT_S = 600.0  # one answer may wait for many others
_MAX_TRIES = 100  # while the server says 429

Item = TypeVar("Item")
Result = TypeVar("Result")


class ServerBackend:
    """The model of a running server; questions of one call are asked at the same time.

    Raises UsageError for an address where no such server is, WrinklefreeError when it refuses.
    """

    name = "server"

    def __init__(self, url: str) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=base, headers=headers, timeout=_TIMEOUT_S)
        try:
            entry = self._ask("GET", "/v1/models")["data"][0]
            self._model = str(entry["id"])
            self.max_context = int(entry.get("context_length") or entry["max_model_len"])
        except httpx.HTTPError as error:
            raise UsageError(f"{url}: no server answers there ({error})") from None
        except (KeyError, IndexError, TypeError, ValueError):
            raise UsageError(f"{url}: /v1/models tells no model with its context length") from None

    @cached_property
    def bos_id(self) -> int | None:
        """The token that the server puts in front of a text, if it does."""
        empty = self.encode("", add_special=True)
        return empty[0] if empty else None

    @property
    def eos_id(self) -> int | None:
        return None

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        body = {"model": self._model, "prompt": text, "add_special_tokens": add_special}
        return list(self._ask("POST", "/tokenize", body)["tokens"])

    def score(self, questions: Sequence[Question]) -> list[list[Score]]:
        def ask(question: Question) -> list[Score]:
            rows = [[*question.prompt, *choice] for choice in question.choices]
            scores = []
            for choice, (logprobs, best) in zip(question.choices, self._echo(rows), strict=True):
                own = slice(-len(choice), None)
                is_greedy = bool((logprobs[own] == best[own]).all())
                scores.append(Score(float(logprobs[own].sum()), len(choice), is_greedy))
            return scores

        return _at_once(ask, questions)

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        ((logprobs, _),) = self._echo([list(ids)])
        return logprobs

    def generate(
        self, prompts: Sequence[list[int]], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> list[Answer]:
        def ask(prompt: list[int]) -> Answer:
            fields = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
            (choice,) = self._complete({**fields, "stop": list(stop)})
            return Answer(choice["text"], choice["finish_reason"] == "stop")

        return _at_once(ask, prompts)

    def close(self) -> None:
        self._http.close()

    def _echo(self, rows: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per row the log-probability of each token but the first, and of the likeliest there."""
        fields = {"prompt": rows, "max_tokens": 0, "echo": True, "logprobs": 1}
        choices = sorted(self._complete(fields), key=lambda choice: int(choice["index"]))
        try:
            scores = [_scored(choice["logprobs"]) for choice in choices]
            if [len(logprobs) for logprobs, _ in scores] != [len(row) - 1 for row in rows]:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            # Mainline llama.cpp's server takes `echo` and ignores it.
            raise WrinklefreeError(
                "the server does not echo the prompt's log-probabilities, which scoring needs"
            ) from None
        return scores

    def _complete(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"model": self._model, **fields}
        return list(self._ask("POST", "/v1/completions", body)["choices"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        for _ in range(_MAX_TRIES):
            answer = self._http.request(method, path, json=body)
            if answer.status_code != 429:
                break
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        if answer.status_code != 200:
            raise WrinklefreeError(f"{path} of the server: {_reason(answer)}")
        return dict(answer.json())


def _at_once(ask: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    with ThreadPoolExecutor(max(len(items), 1)) as pool:
        return list(pool.map(ask, items))


def _scored(logprobs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.array(logprobs["token_logprobs"][1:], dtype=np.float64)
    best = [max(top.values()) for top in logprobs["top_logprobs"][1:]]
    return chosen, np.array(best, dtype=np.float64)


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
