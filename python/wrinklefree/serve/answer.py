"""Sends what a job generates to the client: as one JSON body or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrinklefree.serve.errors import ApiError, generation_failed, shutting_down
from wrinklefree.serve.generation import Finished, Prompt
from wrinklefree.serve.job import Job
from wrinklefree.serve.replies import Reply
from wrinklefree.serve.responses import PromptDetails, Timings, Usage
from wrinklefree.serve.streaming import Delta, PlacedToken


async def whole_answer(request: Request, job: Job, reply: Reply) -> Response:
    """Waits for all choices; a client that hangs up cancels them."""
    watcher = asyncio.create_task(job.cancel_on_disconnect(request.receive))
    texts: list[list[Delta]] = [[] for _ in range(len(job))]
    try:
        async for index, event in job.events():
            if isinstance(event, Finished):
                _raise_if_failed(event)
            elif isinstance(event, Prompt):
                texts[index].append(reply.echo(event.tokens))
            else:
                texts[index].append(event)
    finally:
        watcher.cancel()
        job.cancel()
    choices = [(_joined(deltas), job.finished[index].reason) for index, deltas in enumerate(texts)]
    extras = {"usage": usage_of(job), "timings": timings_of(job)}
    return Response(_json(reply.whole(choices, extras)), media_type="application/json")


class EventStream(Response):
    """The stream of one job. Whatever ends it, the generations end too."""

    media_type = "text/event-stream"

    def __init__(
        self, job: Job, reply: Reply, *, includes_usage: bool, keep_alive_s: float
    ) -> None:
        """After `keep_alive_s` without an event a comment keeps proxies from hanging up."""
        # X-Accel-Buffering: nginx would otherwise collect the events.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._job = job
        self._reply = reply
        self._includes_usage = includes_usage
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._job.cancel_on_disconnect(receive))
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            async for line in self._lines():
                event = f"{line}\n\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watcher.cancel()
            self._job.cancel()

    async def _lines(self) -> AsyncIterator[str]:
        for index in range(len(self._job)):
            if (opening := self._reply.opening(index)) is not None:
                yield self._chunk(opening)
        async for item in self._job.events_and_silence(self._keep_alive_s):
            if item is None:
                yield ": keep-alive"
                continue
            index, event = item
            if isinstance(event, Delta):
                for chunk in self._reply.chunks(index, event):
                    yield self._chunk(chunk)
            if not isinstance(event, Finished):
                continue
            try:
                _raise_if_failed(event)
            except ApiError as error:  # the status line is gone: the error is the last event
                yield f"data: {error.body.model_dump_json()}"
                return
            is_last = self._job.is_finished
            extras: dict[str, Any] = {"timings": timings_of(self._job)} if is_last else {}
            for chunk in self._reply.closing(index, event.reason, extras):
                yield self._chunk(chunk)
        if self._includes_usage:
            yield f"data: {_json(self._reply.usage_chunk(usage_of(self._job)))}"
        yield "data: [DONE]"

    def _chunk(self, body: BaseModel) -> str:
        if self._includes_usage:  # OpenAI: null in every chunk but the last
            body = body.model_copy(update={"usage": None})
        return f"data: {_json(body)}"


def usage_of(job: Job) -> Usage:
    """Tokens of all choices; a prompt with several choices counts once, also among those that
    were there already."""
    prompt = job.num_prompt_tokens
    completion = sum(finished.completion_tokens for finished in job.finished.values())
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=max(0, prompt - _num_computed(job))),
    )


def _num_computed(job: Job) -> int:
    """Prompt tokens that the engine has really seen."""
    return sum(one.prompt_tokens - one.cached_tokens for one in job.finished.values())


def timings_of(job: Job) -> Timings:
    """Times over all choices; rates are None where the time is too short to divide by."""
    clocks = [finished.clock for finished in job.finished.values()]
    submitted = min(clock.submitted for clock in clocks)
    started = min(clock.started for clock in clocks)
    first_token = min(clock.first_token for clock in clocks)
    finished = max(clock.finished for clock in clocks)
    # The first token of each choice comes out of its prompt's last step.
    num_decoded = sum(one.completion_tokens - 1 for one in job.finished.values())
    return Timings(
        queue_s=round(started - submitted, 4),
        prompt_s=round(first_token - started, 4),
        generation_s=round(finished - first_token, 4),
        time_to_first_token_s=round(first_token - submitted, 4),
        prompt_tokens_per_s=_rate(_num_computed(job), first_token - started),
        completion_tokens_per_s=_rate(num_decoded, finished - first_token),
    )


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 2) if count > 0 and seconds > 0 else None


def _joined(deltas: list[Delta]) -> Delta:
    """One delta; a text that follows an echoed prompt is placed behind it."""
    echoed = deltas[0].text if deltas and deltas[0].is_prompt else ""
    tokens = [
        token if delta.is_prompt else PlacedToken(token.token, len(echoed) + token.offset)
        for delta in deltas
        for token in delta.tokens
    ]
    return Delta("".join(delta.text for delta in deltas), tuple(tokens))


def _raise_if_failed(event: Finished) -> None:
    if event.reason == "failed":
        raise generation_failed()
    if event.reason == "cancelled":  # by the client, who reads no answer, or by a shutdown
        raise shutting_down()


def _json(body: BaseModel) -> str:
    dumped: Any = body.model_dump_json(exclude_unset=True)
    return str(dumped)
