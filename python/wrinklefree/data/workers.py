"""Processes that tokenize. Each answers over a pipe of its own, so that the end of either side,
however it comes, is seen by the other: no orphans, and no trainer that waits for the dead.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from wrinklefree.data.encode import Encodable, Encoded, Encoder
from wrinklefree.errors import WrinklefreeError

STOP_S = 5.0  # a worker that was told to stop finishes its records within this, or is killed
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WorkerError(WrinklefreeError):
    """A process that tokenized for this run is gone; the last checkpoint is intact."""


class WorkerPool:
    """`num_workers` spawned processes with a copy of the encoder each."""

    def __init__(self, encoder: Encoder, num_workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._idle: queue.SimpleQueue[tuple[BaseProcess, Connection]] = queue.SimpleQueue()
        self._connections: list[Connection] = []
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="tokenize")
        with _stop_signals_blocked():
            for _ in range(num_workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(encoder, theirs), daemon=True)
                process.start()
                theirs.close()  # the worker's copy is now the only one: its death closes the pipe
                self._processes.append(process)
                self._connections.append(ours)
                self._idle.put((process, ours))
        atexit.register(self.close)

    def submit(self, records: Sequence[Encodable]) -> Future[Encoded]:
        """The encoded records, later. The future raises WorkerError when the worker dies."""
        return self._threads.submit(self._ask, records)

    def close(self) -> None:
        """Stop all processes; what was submitted and not begun is dropped."""
        atexit.unregister(self.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + STOP_S
        for _ in self._processes:
            # One that is idle, since a pipe must not be written to from two threads.
            with contextlib.suppress(queue.Empty, OSError):
                _, connection = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
                connection.send(None)
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._threads.shutdown(wait=True)
        for connection in self._connections:
            connection.close()

    def _ask(self, records: Sequence[Encodable]) -> Encoded:
        process, connection = worker = self._idle.get()
        try:
            connection.send(records)
            answer = connection.recv()
        except (EOFError, OSError):
            process.join(STOP_S)
            raise WorkerError(
                f"a data worker died (exit code {process.exitcode}): not enough memory, or killed; "
                "the same command continues from the last checkpoint, data.workers=0 needs the "
                "least memory"
            ) from None
        finally:
            self._idle.put(worker)  # a dead one too: whoever asks it next must not wait
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Encoded)
        return answer


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Children inherit the mask: a Ctrl-C while they start is for the trainer alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(encoder: Encoder, connection: Connection) -> None:
    """The worker's life: records in, pieces out, until the trainer says stop or is gone."""
    # The trainer decides when to stop: it may still need rows to finish its step.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # One thread each: there are as many workers as the user wants to be busy.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with contextlib.suppress(EOFError, OSError):
        while (records := connection.recv()) is not None:
            try:
                answer: Encoded | BaseException = encoder(records)
            except Exception as error:
                answer = error
            connection.send(answer)
