"""Connections that ask for nothing: how long they may stay, and how many of them.

Each takes one of the files that the process may open. When they are used up nobody else can
connect, and asyncio writes some thousand lines a second about it.
"""

from __future__ import annotations

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from wrinklefree.serve.settings import Settings

# Clients whom the system lets in before the server looks at them; so many at a time are accepted
# before the first of them can be closed again.
BACKLOG = 128
_MOST = 10_000


def max_connections() -> int:
    """Half of the files that this process may open: the other half is for bursts and the model."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if files == resource.RLIM_INFINITY else min(_MOST, files // 2)


def connection_class(settings: Settings) -> type[H11Protocol]:
    """What uvicorn takes as `http`."""
    most = max_connections()

    class Connection(H11Protocol):
        """Uvicorn's, which waits for ever for the first request, or for the rest of its head."""

        _waits_since: float | None = None
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._look()
            if len(self.connections) > most:
                self._make_room()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop_waiting()

        def _look(self) -> None:
            """Notes since when the head of a request is due."""
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()
            elif self._waits_since is None:
                self._waits_since = self.loop.time()
                self._timer = self.loop.call_later(settings.head_timeout_s, self.transport.close)

        def _stop_waiting(self) -> None:
            self._waits_since = None
            if self._timer is not None:
                self._timer.cancel()

        def _make_room(self) -> None:
            """Closes the connection that has waited for longest; it may be this one."""
            waiting = {
                one._waits_since: one
                for one in self.connections
                if isinstance(one, Connection)
                and one._waits_since is not None
                and not one.transport.is_closing()
            }
            if waiting:
                waiting[min(waiting)].transport.abort()

    return Connection
