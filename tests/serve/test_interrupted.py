"""A request that is cancelled wherever it waits takes nothing with it: its places are free again,
and those beside and after it are answered as ever."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import ScriptedModel
from wrinklefree.engine import LLM
from wrinklefree.serve.app import build_app
from wrinklefree.serve.model import ServedModel
from wrinklefree.serve.native import NativeModel
from wrinklefree.serve.settings import Settings

Interrupt = Callable[["Client"], None]


class Points:
    """Counts the places where the tasks of one request wait, and interrupts it at one of them."""

    def __init__(self, client: Client, interrupt: Interrupt, at: int, *, repeats: bool) -> None:
        self.num = 0
        self._client, self._interrupt = client, interrupt
        self._at, self._repeats = at, repeats

    def pass_one(self) -> None:
        self.num += 1
        if self.num == self._at or (self._repeats and self.num > self._at):
            self._interrupt(self._client)


# The points of the request that a task belongs to: tasks inherit the context of those that start
# them, asyncio.wait_for's and the watcher's too.
points_of: ContextVar[Points] = ContextVar("points_of")


class Watched:
    """Awaits a coroutine; each time it would wait for something is a point."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], points: Points) -> None:
        self._coroutine, self._points = coroutine, points

    def __await__(self) -> Generator[Any, None, Any]:
        error: BaseException | None = None
        while True:
            try:
                waited = self._coroutine.throw(error) if error else self._coroutine.send(None)
            except StopIteration as end:
                return end.value
            error = None
            try:
                self._points.pass_one()
                yield waited
            except BaseException as thrown:
                error = thrown


def watching_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    points = points_of.get(None)

    async def watched() -> Any:
        assert points is not None
        return await Watched(coroutine, points)

    task = asyncio.Task(watched() if points else coroutine, loop=loop, **options)
    # One that is cancelled before it began never gets to its coroutine.
    task.add_done_callback(lambda _: coroutine.close())
    return task


class Client:
    """One request in ASGI's terms; others run before each of its messages comes or goes."""

    def __init__(self, path: str, fields: dict[str, Any]) -> None:
        body = json.dumps(fields).encode()
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        }
        self.is_gone = asyncio.Event()
        self._parts = [body[:10], body[10:20], body[20:]]
        self._sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self._parts:
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self._sent.append(message)

    @property
    def text(self) -> str:
        """Of the answer, as far as it came."""
        body = b"".join(message.get("body", b"") for message in self._sent).decode()
        if not body.startswith(("data: ", ":")):
            return text_of(json.loads(body)) if body else ""
        lines = [line.removeprefix("data: ") for line in body.split("\n\n")]
        return "".join(text_of(json.loads(line)) for line in lines if line.startswith("{"))

    @property
    def is_complete(self) -> bool:
        return bool(self._sent) and not self._sent[-1].get("more_body", False)


def text_of(answer: dict[str, Any]) -> str:
    """Of the only choice of a whole answer or of a chunk; an error has none."""
    if "error" in answer:
        return ""
    choice = answer["choices"][0]
    said = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
    return said.get("content") or ""


def cancel(_: Client) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def fail(_: Client) -> None:
    raise asyncio.CancelledError


def hang_up(client: Client) -> None:
    client.is_gone.set()


class Served:
    """An application with a running engine thread, asked without a network."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        # Keep-alive comments: the wait for the next token is cut short again and again.
        self._app = build_app(model, Settings(model_name="tiny", keep_alive_s=0.001))
        self.worker = self._app.state.worker

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self._app.router.lifespan_context(self._app):
            while not self.worker.is_ready:
                await asyncio.sleep(0.001)
            yield

    async def ask(self, client: Client) -> None:
        await self._app(client.scope, client.receive, client.send)

    async def answer(self, path: str, fields: dict[str, Any]) -> str:
        client = Client(path, fields)
        await self.ask(client)
        assert client.is_complete
        return client.text

    async def interrupted(
        self, client: Client, interrupt: Interrupt, at: int, *, repeats: bool
    ) -> tuple[int, BaseException | None]:
        """The number of points it passed, and what ended it."""
        points = Points(client, interrupt, at, repeats=repeats)

        async def ask() -> None:
            points_of.set(points)
            await Watched(self.ask(client), points)

        (error,) = await asyncio.gather(asyncio.create_task(ask()), return_exceptions=True)
        return points.num, error

    async def settle(self) -> None:
        """Waits until nothing of any request is left; fails if something stays."""
        for _ in range(5000):
            num_left = self.worker.num_running + self.worker.num_waiting
            if isinstance(self.model, ScriptedModel):
                num_left += len(self.model.live_slots)
            if num_left == 0 and asyncio.all_tasks() == {asyncio.current_task()}:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"left: {asyncio.all_tasks()}, {self.worker.num_running} running")


PROMPT = "Once upon a time, Lily and Tom"
CHAT = "/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}
TEXT = "/v1/completions", {"prompt": PROMPT}
BESIDE = "/v1/completions", {"prompt": f"{PROMPT} went", "max_tokens": 12, "temperature": 0}
FIELDS = {"max_tokens": 6, "temperature": 0}


async def interrupt_everywhere(
    served: Served, path: str, fields: dict[str, Any], interrupt: Interrupt, *, repeats: bool
) -> int:
    """Asks again and again, interrupted one point later each time; the number of points."""
    troubles: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    loop.set_task_factory(watching_factory)
    async with served.running():
        beside = await served.answer(*BESIDE)
        whole = await served.answer(path, fields)
        assert whole
        assert beside
        for at in itertools.count(1):
            client = Client(path, fields)
            (num_points, error), text = await asyncio.gather(
                served.interrupted(client, interrupt, at, repeats=repeats),
                served.answer(*BESIDE),
            )
            shown = f"point {at}"
            assert text == beside, shown
            assert error is None or isinstance(error, asyncio.CancelledError), shown
            assert whole.startswith(client.text), shown
            await served.settle()
            if num_points < at:  # it had no such point
                break
        assert (client.text, error) == (whole, None), "the last one was not interrupted"
        assert await served.answer(*BESIDE) == beside
        assert await served.answer(path, fields) == whole
        assert served.worker.is_ready
    assert troubles == []
    return at


@pytest.fixture(scope="module")
def llm(data_dir: Path) -> Any:
    with LLM(data_dir / "stories260k_hf") as llm:
        yield llm


INTERRUPTS = pytest.mark.parametrize(
    ("interrupt", "repeats"),
    [(cancel, False), (cancel, True), (fail, False), (hang_up, False)],
    ids=["cancelled", "cancelled again and again", "raises", "hangs up"],
)
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.mark.parametrize("is_real", [False, True], ids=["scripted", "stories"])
@pytest.mark.parametrize("endpoint", [CHAT, TEXT], ids=["chat", "text"])
@STREAMS
@INTERRUPTS
def test_every_point(
    request: pytest.FixtureRequest,
    interrupt: Interrupt,
    repeats: bool,
    stream: bool,
    endpoint: tuple[str, dict[str, Any]],
    is_real: bool,
) -> None:
    model: ServedModel
    if is_real:
        model = NativeModel(request.getfixturevalue("llm"))
    else:
        model = ScriptedModel([b"a", b"b", b"c", b"d"], delay_s=0.001)
    path, fields = endpoint
    asked = {**fields, **FIELDS, "stream": stream}
    num_points = asyncio.run(
        interrupt_everywhere(Served(model), path, asked, interrupt, repeats=repeats)
    )
    # Three parts of a body, a helper thread, and the answer: one message or one a token.
    assert num_points > 3 + 1 + (6 if stream else 1)


@STREAMS
@INTERRUPTS
def test_no_answer_goes_on_alone(interrupt: Interrupt, repeats: bool, stream: bool) -> None:
    """One that would take half a minute ends when its request does."""
    model = ScriptedModel([b"x"], endless=True, delay_s=0.002, context_length=15_000)
    served = Served(model)
    path, fields = TEXT

    async def interrupt_at_some() -> None:  # not the watcher: without it nobody knows of a hang-up
        async with served.running():
            for at in range(1, 25):
                client = Client(path, {**fields, "stream": stream})
                num_steps = model.num_steps
                num_points, _ = await served.interrupted(client, interrupt, at, repeats=repeats)
                assert num_points >= at
                await served.settle()
                assert model.num_steps - num_steps < 10_000

    asyncio.run(interrupt_at_some())


def test_a_form_is_compiled_and_dropped(llm: LLM) -> None:
    path, fields = TEXT
    form = {"type": "regex", "regex": "[a-z]{8}"}
    asked = {**fields, **FIELDS, "stream": True, "response_format": form}
    asyncio.run(interrupt_everywhere(Served(NativeModel(llm)), path, asked, cancel, repeats=False))
