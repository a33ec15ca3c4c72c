"""A name and one log line for every request, and an answer for those that fail unexpectedly."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrinklefree.serve.errors import ApiError
from wrinklefree.serve.job import Job

log = logging.getLogger("wrinklefree.serve")

HEADER = "X-Request-Id"
_GIVEN_ID = re.compile(r"[\x21-\x7e]{1,64}")
CLIENT_GONE = 499  # nginx's status for the log: the client hung up before its answer was complete


class RequestLog:
    """ASGI middleware around all others. The line holds method, path, status, duration and numbers
    of tokens: nothing that the client wrote but the path, without its query, and the id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send)
        try:
            await self._app(scope, request.receive, request.send)
        except Exception:
            log.exception("%s failed", request.id)
            if request.status:  # the status line is gone: uvicorn hangs up
                return
            error = ApiError(500, "internal error; see the server's log")
            await error.response()(scope, receive, request.send)
        finally:
            request.write()


class _Request:
    """What is seen of one request on its way in and out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get(HEADER, "")
        self.id = given if _GIVEN_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        self.status = 0  # none yet
        self._scope, self._receive, self._send = scope, receive, send
        self._state = scope.setdefault("state", {})
        self._began = time.perf_counter()
        self._is_complete = self._is_gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._is_complete:
            self._is_gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[HEADER] = self.id
        elif not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)

    def write(self) -> None:
        """The log line; a GET or HEAD that went well, such as a health check every second, is no
        news."""
        status = CLIENT_GONE if self._is_gone else self.status
        method = self._scope["method"]
        is_news = method not in ("GET", "HEAD") or status >= 400
        job: Job | None = self._state.get("job")
        tokens = (job.num_prompt_tokens, job.num_completion_tokens) if job else (0, 0)
        log.log(
            logging.INFO if is_news else logging.DEBUG,
            "%s %s %s %d %.3f s, %d prompt and %d completion tokens",
            self.id,
            method,
            _printable_path(self._scope),
            status,
            time.perf_counter() - self._began,
            *tokens,
        )


def _printable_path(scope: Scope) -> str:
    """As it was sent, still percent-encoded: it cannot break the line."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw[:100].decode("ascii", "backslashreplace")
