"""A load on OpenAI-compatible servers: time to the first token, between tokens, tokens per second.

Every request has a prompt of its own, so that no server can answer from another's. Those of the
first round are asked again at the end, one at a time: greedy texts should not depend on the load.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from wrinklefree.convert.corpus import PROSE
from wrinklefree.errors import WrinklefreeError

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `requests` prompts of about `prompt_characters`, answers of `max_tokens`."""

    concurrencies: tuple[int, ...] = (1, 4, 16)
    requests: int = 32
    prompt_characters: int = 600
    max_tokens: int = 64
    rounds: int = 3

    def prompts(self, number: int, users: int) -> list[str]:
        """Of one round and concurrency: they differ from their first characters on."""
        text = PROSE * (1 + (self.prompt_characters + self.requests * 37) // len(PROSE))
        return [
            f"{index}, {number}, {users}. {text[index * 37 :][: self.prompt_characters]}"
            for index in range(self.requests)
        ]


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer; seconds from the request on."""

    text: str
    num_tokens: int
    first_s: float
    gaps_s: list[float]  # between pieces of text


@dataclass(slots=True)
class _Pool:
    """Answers of a server at one concurrency, of all rounds."""

    answers: list[Answer] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # tokens/s of each round
    failures: list[str] = field(default_factory=list)


def bench_servers(
    urls: Sequence[str],
    load: Load,
    *,
    api_key: str | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> list[dict[str, Any]]:
    """A row of figures for each server and concurrency; servers take turns in every round.

    Raises WrinklefreeError if a server cannot be reached or names no model.
    """
    return asyncio.run(_bench(urls, load, api_key, progress))


async def _bench(
    urls: Sequence[str], load: Load, api_key: str | None, progress: Callable[[str], object]
) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    # A connection for each request: some servers close idle ones just when the next is sent.
    limits = httpx.Limits(max_connections=max(load.concurrencies), max_keepalive_connections=0)
    pools = {(url, users): _Pool() for users in load.concurrencies for url in urls}
    alone = {key: _Pool() for key in pools}
    async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S, limits=limits) as client:
        models = {url: await _model(client, url) for url in urls}
        for number in range(load.rounds):
            for (url, users), pool in pools.items():
                progress(f"{url}: {users} at once, round {number + 1} of {load.rounds}")
                prompts = load.prompts(number, users)
                await _round(client, url, models[url], prompts, users, load.max_tokens, pool)
        for (url, users), pool in alone.items():
            progress(f"{url}: the prompts of {users} at once, one at a time")
            prompts = load.prompts(0, users)
            await _round(client, url, models[url], prompts, 1, load.max_tokens, pool)
            _refuse_failures(url, pool)
    return [
        _row(*key, pool, [answer.text for answer in alone[key].answers])
        for key, pool in pools.items()
    ]


def _refuse_failures(url: str, pool: _Pool) -> None:
    if pool.failures:
        raise WrinklefreeError(f"{url} fails when asked one at a time: {pool.failures[0]}")


async def _model(client: httpx.AsyncClient, url: str) -> str:
    try:
        answer = await client.get(f"{url}/v1/models")
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise WrinklefreeError(f"no model at {url}/v1/models: {error}") from error


async def _round(
    client: httpx.AsyncClient,
    url: str,
    model: str,
    prompts: Sequence[str],
    users: int,
    max_tokens: int,
    pool: _Pool,
) -> None:
    """All prompts, `users` at once; answers are appended in the order of the prompts."""
    free = asyncio.Semaphore(users)

    async def ask(prompt: str) -> Answer | str:
        async with free:
            try:
                return await _answer(client, url, model, prompt, max_tokens)
            except (httpx.HTTPError, ValueError, LookupError) as error:
                return f"{type(error).__name__}: {error}"

    began = time.perf_counter()
    results = await asyncio.gather(*map(ask, prompts))
    elapsed = time.perf_counter() - began
    done = [result for result in results if isinstance(result, Answer)]
    pool.answers += done
    pool.failures += [result for result in results if isinstance(result, str)]
    pool.rates.append(sum(answer.num_tokens for answer in done) / elapsed)


async def _answer(
    client: httpx.AsyncClient, url: str, model: str, prompt: str, max_tokens: int
) -> Answer:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    pieces: list[str] = []
    times: list[float] = []
    num_tokens = 0
    began = time.perf_counter()
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            event: Mapping[str, Any] = json.loads(data)
            if event.get("usage"):
                num_tokens = int(event["usage"]["completion_tokens"])
            text = event["choices"][0].get("text") if event.get("choices") else None
            if text:
                pieces.append(text)
                times.append(time.perf_counter() - began)
    if not times:  # the end token came first, or tokens without text
        times.append(time.perf_counter() - began)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return Answer("".join(pieces), num_tokens or len(pieces), times[0], gaps)


def _row(url: str, users: int, pool: _Pool, alone: Sequence[str]) -> dict[str, Any]:
    gaps = [gap for answer in pool.answers for gap in answer.gaps_s]
    firsts = [answer.first_s for answer in pool.answers]
    # The first round's answers come first; with failures they cannot be told apart.
    equal = [answer.text == text for answer, text in zip(pool.answers, alone, strict=False)]
    return {
        "url": url,
        "concurrency": users,
        "tokens_per_s": round(statistics.median(pool.rates), 1),
        "first_token_ms_p50": _milliseconds(firsts, 50),
        "first_token_ms_p95": _milliseconds(firsts, 95),
        "between_tokens_ms_p50": _milliseconds(gaps, 50),
        "between_tokens_ms_p95": _milliseconds(gaps, 95),
        "failures": len(pool.failures),
        "texts_as_alone": round(sum(equal) / len(equal), 3)
        if equal and not pool.failures
        else None,
    }


def _milliseconds(seconds: Sequence[float], percentile: int) -> float | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)], 2)
