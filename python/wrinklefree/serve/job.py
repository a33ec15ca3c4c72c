"""One request inside the server: its generations and the events that the engine thread sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.types import Receive

from wrinklefree.serve.generation import Event, Finished, Generation
from wrinklefree.serve.worker import Worker

MakeGeneration = Callable[[Callable[[Event], None]], Generation]


class Job:
    """Belongs to one event loop; the engine thread reaches it only through `_post`."""

    def __init__(
        self, worker: Worker, makers: Sequence[MakeGeneration], *, num_prompt_tokens: int
    ) -> None:
        """Makes one generation per maker; raises ApiError if the worker takes no more."""
        self.num_prompt_tokens = num_prompt_tokens
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()
        self._generations = [make(self._emitter(index)) for index, make in enumerate(makers)]
        self.finished: dict[int, Finished] = {}
        worker.submit(self._generations)

    def __len__(self) -> int:
        return len(self._generations)

    def _emitter(self, index: int) -> Callable[[Event], None]:
        def post(event: Event) -> None:
            try:
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))
            except RuntimeError:  # the loop is closed: nobody is left to read
                self._generations[index].cancelled = True

        return post

    @property
    def num_completion_tokens(self) -> int:
        """Sampled so far, of all choices together."""
        return sum(generation.num_generated for generation in self._generations)

    @property
    def is_finished(self) -> bool:
        return len(self.finished) == len(self._generations)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(choice, event) as they come, to the last of all choices."""
        async for item in self.events_and_silence(None):
            if item is not None:
                yield item

    async def events_and_silence(
        self, silence_s: float | None
    ) -> AsyncIterator[tuple[int, Event] | None]:
        """The same, and None where nothing came for so long."""
        while not self.is_finished:
            item = await self._next(silence_s)
            if item is not None and isinstance(item[1], Finished):
                self.finished[item[0]] = item[1]
            yield item

    async def _next(self, silence_s: float | None) -> tuple[int, Event] | None:
        # NOTE: up to Python 3.11 asyncio.wait_for may swallow a cancellation.
        if silence_s is None:
            return await self._events.get()
        alarm = self._loop.call_later(silence_s, self._events.put_nowait, None)
        try:
            return await self._events.get()
        finally:
            alarm.cancel()

    def cancel(self) -> None:
        """Ends the choices that still run; each still sends its last event."""
        for index, generation in enumerate(self._generations):
            if index not in self.finished:
                self._worker.cancel(generation)

    async def cancel_on_disconnect(self, receive: Receive) -> None:
        """Waits for the client to hang up, whatever the request is doing, then cancels it."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel()
