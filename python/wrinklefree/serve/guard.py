"""What every request must pass before any route sees it: host, key, content type."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrinklefree.serve.errors import ApiError
from wrinklefree.serve.settings import LOOPBACK_HOSTS, Settings

# Exact paths: everything else needs the key, also paths that no route knows.
OPEN_PATHS = frozenset({"/", "/health", "/ready"})


class Guard:
    """ASGI middleware. There is no CORS header anywhere, so other sites' pages read nothing."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        # The digests have one length, so comparing takes one time for every key a client tries.
        self._key_digests = [_digest(key.encode()) for key in settings.api_keys]
        self._is_local = settings.is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await error.response()(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        # A server on loopback is called by its loopback name. Another name is a page elsewhere
        # whose DNS entry was pointed at this machine (DNS rebinding).
        if self._is_local and _host_name(headers.get("host", "")) not in LOOPBACK_HOSTS:
            raise ApiError(403, "unknown Host header", code="host_not_allowed")
        if self._key_digests and scope["path"] not in OPEN_PATHS:
            self._check_key(headers.get("authorization", ""))
        if scope["method"] == "POST":
            # Browsers send JSON to another site only after asking it, and we never agree.
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "Content-Type must be application/json")

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip().encode("latin-1"))  # the bytes that were sent
        # All keys are compared, whichever one matches.
        matches = [hmac.compare_digest(given, known) for known in self._key_digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(
                401,
                "missing or wrong API key; send 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _host_name(host: str) -> str:
    """Host header without its port; "[::1]:8080" is "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
