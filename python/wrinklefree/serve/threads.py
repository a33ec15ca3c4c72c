"""Threads for work that takes a while, apart by kind, so that none of it holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

LONG_BODY = 64 << 10  # bytes of a request whose text takes more than a few milliseconds

Result = TypeVar("Result")


class Threads:
    """Two for long prompts, two for forms, and asyncio's own for all other prompts."""

    def __init__(self) -> None:
        self._long = ThreadPoolExecutor(2, thread_name_prefix="long-prompt")
        self._forms = ThreadPoolExecutor(2, thread_name_prefix="form")

    async def read(self, num_bytes: int, work: Callable[[], Result]) -> Result:
        """Runs what renders or tokenizes a request of that size."""
        pool = self._long if num_bytes > LONG_BODY else None
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def compile(self, work: Callable[[], Result]) -> Result:
        """Runs what compiles the form of an answer."""
        return await asyncio.get_running_loop().run_in_executor(self._forms, work)
