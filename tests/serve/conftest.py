"""A model without weights that says what a test tells it to, and a server to run it in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any
from weakref import WeakSet

import httpx
import openai
import pytest
import uvicorn

from wrinklefree.engine import SamplingParams
from wrinklefree.errors import WrinklefreeError
from wrinklefree.serve.app import build_app
from wrinklefree.serve.connections import connection_class
from wrinklefree.serve.model import ServedModel, Stepped, Token, Work
from wrinklefree.serve.responses import ModelMeta
from wrinklefree.serve.settings import Settings
from wrinklefree.serve.worker import Worker

BOS, EOS, SPECIAL = 256, 257, 258
SPECIAL_TEXT = {"<s>": BOS, "<end>": EOS, "<turn>": SPECIAL}
FIRST_WORD = 259


class ByteTokenizer:
    """Ids 0..255 are bytes, then three special tokens, then whatever words a test adds."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.words = list(words)
        self.vocab_size = FIRST_WORD + len(self.words)
        self.bos_id: int | None = BOS
        self.eos_ids = (EOS,)
        self.special_tokens = SPECIAL_TEXT

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        return [*([BOS] if add_special else []), *text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        if token_id < BOS:
            return bytes([token_id])
        if self.is_special(token_id):
            return b""
        return self.words[token_id - FIRST_WORD]

    def is_special(self, token_id: int) -> bool:
        return BOS <= token_id < FIRST_WORD


@dataclass(eq=False)
class ScriptedSlot:
    sampling: SamplingParams
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    num_sampled: int = 0


class ScriptedModel:
    """Emits `script` (byte strings, or ids) and then the end token, for every prompt.

    `delay_s` makes a step slow, `fail_at` raises in the step with that number.
    """

    END = EOS
    SPECIAL = SPECIAL
    Tokenizer = ByteTokenizer

    def __init__(
        self,
        script: Sequence[bytes | int] = (),
        *,
        context_length: int = 256,
        delay_s: float = 0.0,
        endless: bool = False,
    ) -> None:
        words = [item for item in script if isinstance(item, bytes)]
        self.tokenizer = ByteTokenizer(words)
        self._script = [
            FIRST_WORD + words.index(item) if isinstance(item, bytes) else item for item in script
        ]
        self.context_length = context_length
        self.meta = ModelMeta(
            architecture="none",
            parameters=1000,
            ternary_parameters=900,
            bits_per_weight=1.58,
            weight_bytes=200,
            vocab_size=self.tokenizer.vocab_size,
            format="script",
            isa="none",
            threads=1,
        )
        self.default_sampling: dict[str, int | float] = {}
        self.delay_s = delay_s
        self.endless = endless
        self.fail_at = -1
        self.num_steps = 0
        self.num_outputs = 0
        self.conversations: list[tuple[list[Any], list[Any]]] = []  # with their tools
        self.batch_sizes: list[int] = []
        self.slots: deque[ScriptedSlot] = deque(maxlen=4)  # the last ones, for inspection
        self._all_slots: WeakSet[ScriptedSlot] = WeakSet()

    def chat_ids(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        if messages[0]["content"] == "refuse":
            raise WrinklefreeError("the template wants no such message")
        self.conversations.append((list(messages), list(tools)))
        lines = [f"{message['role']}: {message['content']}" for message in messages]
        return [BOS, *"\n".join(lines).encode()]

    def open(
        self, prompt: Sequence[int], sampling: SamplingParams, *, max_tokens: int
    ) -> ScriptedSlot:
        slot = ScriptedSlot(sampling, max_tokens)
        self.slots.append(slot)
        self._all_slots.add(slot)
        return slot

    def fork(
        self,
        slot: ScriptedSlot,
        length: int,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
    ) -> ScriptedSlot:
        forked = self.open(prompt, sampling, max_tokens=max_tokens)
        assert length <= len(slot.tokens)
        forked.tokens = slot.tokens[:length]
        return forked

    def slot_bytes(self, slot: ScriptedSlot) -> int:
        """More than any cache takes, so that a test sees no slot but those that run."""
        return (1 << 40) + len(slot.tokens)

    @property
    def head_counts(self) -> tuple[int, int]:
        """As if three rows of the head were computed exactly for every output."""
        return self.num_outputs, 3 * self.num_outputs

    @property
    def live_slots(self) -> list[ScriptedSlot]:
        """Slots that the server still holds."""
        self.slots.clear()
        return list(self._all_slots)

    def step(self, work: Sequence[Work]) -> list[Stepped]:
        self.num_steps += 1
        self.batch_sizes.append(len(work))
        time.sleep(self.delay_s)
        if self.num_steps == self.fail_at:
            raise RuntimeError("scripted failure")
        return [self._advance(item) for item in work]

    def _advance(self, item: Work) -> Stepped:
        """A token is as likely as its position: log-probability -1 after one token, and so on."""
        slot: ScriptedSlot = item.slot
        scored = [
            Token(target, -float(len(slot.tokens) + place), [(target, -0.25)])
            for place, target in enumerate(item.targets, 1)
        ]
        slot.tokens.extend(item.tokens)
        assert len(slot.tokens) <= slot.max_tokens
        return Stepped(self._sample(slot) if item.samples else None, scored)

    def _sample(self, slot: ScriptedSlot) -> Token:
        position = slot.num_sampled % len(self._script) if self.endless else slot.num_sampled
        slot.num_sampled += 1
        self.num_outputs += 1
        chosen = self._script[position] if position < len(self._script) else EOS
        top = [(chosen, -0.5), (EOS, -1.5), (0, float("-inf"))][: slot.sampling.logprobs or 0]
        return Token(chosen, -0.5, top)


@dataclass
class RunningServer:
    """A real server on loopback; `http` talks to it plainly, `client` as OpenAI's library does."""

    url: str
    worker: Worker
    http: httpx.Client
    client: openai.OpenAI

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "hi"}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def complete(self, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={"prompt": "hi", **fields})

    def wait_idle(self, timeout_s: float = 5.0) -> float:
        """Seconds until no generation is left in the server."""
        began = time.perf_counter()
        while self.worker.num_running or self.worker.num_waiting:
            assert time.perf_counter() - began < timeout_s, "a generation was not freed"
            time.sleep(0.002)
        return time.perf_counter() - began


@contextmanager
def running_server(model: ServedModel, settings: Settings) -> Iterator[RunningServer]:
    app = build_app(model, settings)
    config = uvicorn.Config(
        app,
        log_level="error",
        http=connection_class(settings),
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # The protocol is named because asyncio sends small writes at once (TCP_NODELAY) only then.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        key = settings.api_keys[0] if settings.api_keys else "none"
        try:
            with (
                # verify=False: reading the CA bundle takes longer than most of the tests
                httpx.Client(
                    # 200 threads that share a hundred connections close them under each other.
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
                    base_url=url,
                    timeout=30,
                    verify=False,
                ) as http,
                openai.OpenAI(
                    base_url=f"{url}/v1", api_key=key, max_retries=0, http_client=http
                ) as client,
            ):
                while http.get("/health").status_code != 200:
                    time.sleep(0.005)
                yield RunningServer(url, app.state.worker, http, client)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def started_server(
    *arguments: object, python: Sequence[str] = (), log: IO[str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A wf-serve process, its address and the lines it printed.

    `python` holds options of the interpreter; `log` takes what it writes to stderr.
    """
    program = "from wrinklefree.cli.serve import main; main()"
    command = [sys.executable, *python, "-c", program, *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            while "OpenAI API" not in (lines[-1] if lines else ""):
                lines.append(process.stdout.readline())
                assert lines[-1], "the server ended"
            yield process, lines[-1].split()[2].rstrip("/"), lines
        finally:
            process.kill()


ServeFactory = Callable[..., RunningServer]


@contextmanager
def server_factory() -> Iterator[ServeFactory]:
    with ExitStack() as stack:

        def start(model: ServedModel, **settings: Any) -> RunningServer:
            chosen = Settings(**{"model_name": "tiny", **settings})
            return stack.enter_context(running_server(model, chosen))

        yield start


@pytest.fixture
def serve() -> Iterator[ServeFactory]:
    """serve(model, **settings): a server that lives until the test ends."""
    with server_factory() as start:
        yield start


@pytest.fixture(scope="module")
def serve_for_module() -> Iterator[ServeFactory]:
    """The same for a server that the tests of a module share."""
    with server_factory() as start:
        yield start


@pytest.fixture(scope="session")
def ok_server() -> Iterator[RunningServer]:
    """One server for all tests that leave nothing behind; every answer of its model is "ok"."""
    with running_server(ScriptedModel([b"ok"]), Settings(model_name="tiny")) as server:
        yield server


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedModel]:
    return ScriptedModel
