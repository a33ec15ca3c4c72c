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

# One answer may wait for many others.
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_MAX_TRIES = 100  # while the server says 429
_LONGEST_WAIT_S = 60.0  # between two of them, whatever the server asks for

# What reading an answer raises when it is not of the expected form.
_BAD_FORM = (ValueError, TypeError, LookupError, AttributeError)

Item = TypeVar("Item")
Result = TypeVar("Result")


class ServerBackend:
    """The model of a running server; questions of one call are asked at the same time.

    Raises UsageError for an address where no such server is; here and later WrinklefreeError when
    it refuses, does not answer, or answers something else.
    """

    name = "server"

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=self._url, headers=headers, timeout=_TIMEOUT)
            models = self._answer("GET", "/v1/models")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise UsageError(f"{url}: no server answers there ({_told(error)})") from None
        try:
            entry = models["data"][0]
            self._model = str(entry["id"])
            self.max_context = int(entry.get("context_length") or entry["max_model_len"])
        except _BAD_FORM:
            raise UsageError(
                f"{url}: /v1/models tells no model with its context length, as wf-serve and vLLM do"
            ) from None

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
        return self._ask("/tokenize", body, lambda answer: [int(i) for i in answer["tokens"]])

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
            # Servers take penalties that are not asked for from the model's generation_config.
            plain = {"temperature": 0, "repetition_penalty": 1}
            fields = {"prompt": prompt, "max_tokens": max_tokens, "stop": list(stop), **plain}
            return self._complete(fields, _written)

        return _at_once(ask, prompts)

    def close(self) -> None:
        self._http.close()

    def _echo(self, rows: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per row the log-probability of each token but the first, and of the likeliest there."""
        fields = {"prompt": rows, "max_tokens": 0, "echo": True, "logprobs": 1}

        def read(choices: list[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
            choices = sorted(choices, key=lambda choice: int(choice["index"]))
            try:
                scores = [_scored(choice["logprobs"]) for choice in choices]
                if [len(logprobs) for logprobs, _ in scores] != [len(row) - 1 for row in rows]:
                    raise ValueError
            except _BAD_FORM:
                # Mainline llama.cpp's server takes `echo` and ignores it.
                raise WrinklefreeError(
                    "the server does not echo the prompt's log-probabilities, which scoring needs"
                ) from None
            return scores

        return self._complete(fields, read)

    def _complete(self, fields: dict[str, Any], read: Callable[[list[Any]], Result]) -> Result:
        body = {"model": self._model, **fields}
        return self._ask("/v1/completions", body, lambda answer: read(list(answer["choices"])))

    def _ask(self, path: str, body: dict[str, Any], read: Callable[[Any], Result]) -> Result:
        """What `read` makes of the answer's JSON."""
        try:
            return read(self._answer("POST", path, body))
        except httpx.HTTPError as error:
            raise WrinklefreeError(f"{self._url}{path}: no answer ({_told(error)})") from None
        except _BAD_FORM:
            raise WrinklefreeError(
                f"{self._url}{path}: an answer in another form than wf-serve's and vLLM's"
            ) from None

    def _answer(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        for _ in range(_MAX_TRIES):
            answer = self._http.request(method, path, json=body)
            if answer.status_code != 429:
                break
            time.sleep(_wait_s(answer))
        if answer.status_code != 200:
            raise WrinklefreeError(f"{self._url}{path}: {_reason(answer)}")
        try:
            return answer.json()
        except ValueError:
            raise WrinklefreeError(f"{self._url}{path}: the answer is no JSON") from None


def _at_once(ask: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    with ThreadPoolExecutor(max(len(items), 1)) as pool:
        return list(pool.map(ask, items))


def _written(choices: list[Any]) -> Answer:
    (choice,) = choices
    return Answer(str(choice["text"]), choice["finish_reason"] == "stop")


def _scored(logprobs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.array(logprobs["token_logprobs"][1:], dtype=np.float64)
    best = [max(top.values()) for top in logprobs["top_logprobs"][1:]]
    return chosen, np.array(best, dtype=np.float64)


def _wait_s(answer: httpx.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT_S) if asked.isdecimal() else 1.0


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except _BAD_FORM:
        return f"HTTP {answer.status_code}"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
