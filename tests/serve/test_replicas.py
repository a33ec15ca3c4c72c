"""docs/replicas.conf in a real nginx: affinity, overload, hang-ups, a replica that ends."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CONFIG = Path(__file__).resolve().parents[2] / "docs" / "replicas.conf"
SHIPPED_PORTS = (8080, 8081, 8082)  # of nginx and the replicas
SECONDS = 120
STEP_S = 0.02
TOKENS = 80
OPENINGS = [f"Once upon a time there was a {animal}" for animal in ("cat", "dog", "bird", "fox")]
NUM_CLIENTS = 8
# One for all: verify=False because reading the CA bundle takes longer than an answer.
HTTP = httpx.Client(verify=False, timeout=SECONDS, limits=httpx.Limits(max_keepalive_connections=0))

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx: apt-get install nginx-light")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.005)


@contextmanager
def nginx(directory: Path, replica_ports: Sequence[int]) -> Iterator[str]:
    """The shipped configuration with other ports in it; gives its URL."""
    assert NGINX is not None
    text = CONFIG.read_text()
    port = free_port()
    for shipped, used in zip(SHIPPED_PORTS, (port, *replica_ports), strict=True):
        assert text.count(f" 127.0.0.1:{shipped}") == 1
        text = text.replace(f" 127.0.0.1:{shipped}", f" 127.0.0.1:{used}")
    (directory / "replicas.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    main = directory / "nginx.conf"
    main.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {directory}/pid; events {{}}"
        f" http {{ access_log off; {temporary} include {directory}/replicas.conf; }}"
    )
    process = subprocess.Popen([NGINX, "-p", directory, "-e", directory / "log", "-c", main])
    try:
        wait_for(lambda: is_open(port))
        assert process.poll() is None
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(SECONDS)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Replica:
    """A wf-serve process that can be killed and started again on its port."""

    def __init__(self, model: Path) -> None:
        self.port = free_port()
        self._model = model
        self.start()

    def start(self) -> None:
        program = Path(sys.executable).with_name("wf-serve")
        self.process = subprocess.Popen(
            [program, self._model, "--port", str(self.port), "--threads", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._is_healthy)

    def _is_healthy(self) -> bool:
        assert self.process.poll() is None
        return is_open(self.port) and HTTP.get(f"{self.url}/health").status_code == 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, name: str) -> float:
        """A figure of /metrics, summed over its labels."""
        lines = HTTP.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith(f"wrinklefree:{name}{{"))

    @property
    def num_answered(self) -> float:
        return self.count("request_success_total")

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(SECONDS)


@pytest.fixture(scope="module")
def replicas(data_dir: Path) -> Iterator[list[Replica]]:
    """Two for all tests, which leave them running."""
    started: list[Replica] = []
    try:
        started += [Replica(data_dir / "stories260k_hf") for _ in range(2)]
        yield started
    finally:
        for replica in started:
            replica.end(signal.SIGKILL)


def messages(*contents: Any) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


def chat(
    url: str, *contents: Any, session: str = "", padding: str = "", **fields: Any
) -> dict[str, Any]:
    body = {"messages": messages(*contents), "temperature": 0, "max_tokens": 40, **fields}
    headers = {"Content-Type": "application/json"}
    if session:
        headers["X-Session"] = session
    content = json.dumps(body) + padding
    answer = HTTP.post(f"{url}/v1/chat/completions", content=content, headers=headers)
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()
    return result


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["choices"][0]["message"]["content"]
    return text


def text_in(line: str) -> str:
    """What a line of a stream adds."""
    if not line.startswith("data: {"):
        return ""
    choice = json.loads(line.removeprefix("data: "))["choices"][0]
    return choice["delta"].get("content") or ""


def streamed_text(url: str, content: str, **fields: Any) -> str:
    """The text of a stream; raises httpx.RemoteProtocolError if it breaks off."""
    body = {"messages": messages(content), "temperature": 0, "stream": True, **fields}
    text, is_whole = "", False
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=SECONDS) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            is_whole = is_whole or line == "data: [DONE]"
            text += text_in(line)
    if not is_whole:
        raise httpx.RemoteProtocolError("the stream broke off")
    return text


@pytest.mark.parametrize("form", ["text", "parts", "long"])
def test_the_turns_of_a_conversation_meet_their_cache(
    replicas: list[Replica], tmp_path: Path, form: str
) -> None:
    before = [replica.num_answered for replica in replicas]
    with nginx(tmp_path, [replica.port for replica in replicas]) as url:
        for number in range(30):  # ports are free ones, so where a conversation goes is chance
            opening = f"{OPENINGS[number % 4]} of {number} colours, in {form}."
            first: Any = opening if form == "text" else [{"type": "text", "text": opening}]
            padding = " " * 200_000 if form == "long" else ""  # long as messages could be
            one = chat(url, first, padding=padding, max_tokens=8)
            two = chat(url, first, text_of(one), "And then?", padding=padding, max_tokens=1)
            assert (
                two["usage"]["prompt_tokens_details"]["cached_tokens"]
                >= (one["usage"]["prompt_tokens"])
            )
    answered = [r.num_answered - b for r, b in zip(replicas, before, strict=True)]
    assert min(answered) > 0, "both had conversations"


def test_a_session_stays_where_it_is(replicas: list[Replica], tmp_path: Path) -> None:
    with nginx(tmp_path, [replica.port for replica in replicas]) as url:
        for session in ("a", "b", "c"):
            before = [replica.num_answered for replica in replicas]
            for opening in OPENINGS:
                chat(url, opening, session=session, max_tokens=1)
            answered = [r.num_answered - b for r, b in zip(replicas, before, strict=True)]
            assert sorted(answered) == [0, len(OPENINGS)]


@dataclass
class Asked:
    content: str
    is_stream: bool
    text: str
    num_retries: int


def ask(url: str, content: str, is_stream: bool) -> Asked:
    """As a client that asks once more when an answer breaks off; nothing else may happen to it."""
    for attempt in range(2):
        try:
            if is_stream:
                text = streamed_text(url, content, max_tokens=TOKENS)
            else:
                text = text_of(chat(url, content, max_tokens=TOKENS))
            return Asked(content, is_stream, text, attempt)
        except httpx.RemoteProtocolError:
            if attempt == 1:
                raise
    raise AssertionError


def keep_asking(
    url: str, contents: Sequence[str], seed: int, enough: threading.Event
) -> list[Asked]:
    chance = random.Random(seed)
    answers = []
    while not enough.is_set():
        answers.append(ask(url, chance.choice(contents), is_stream=chance.random() < 0.5))
    return answers


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=lambda end: end.name)
def test_a_replica_ends_under_load(
    replicas: list[Replica],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    end: signal.Signals,
) -> None:
    contents = [f"{opening} and {number} friends." for opening in OPENINGS for number in range(5)]
    wanted = {c: text_of(chat(replicas[0].url, c, max_tokens=TOKENS)) for c in contents}
    victim, other = replicas
    before = victim.num_answered
    with (
        nginx(tmp_path, [replica.port for replica in replicas]) as url,
        ThreadPoolExecutor(NUM_CLIENTS) as pool,
    ):
        enough = threading.Event()
        try:
            clients = [
                pool.submit(keep_asking, url, contents, i, enough) for i in range(NUM_CLIENTS)
            ]
            wait_for(lambda: victim.num_answered > before + 5)
            wait_for(lambda: victim.count("num_requests_running") > 1)
            victim.end(end)
            before = other.num_answered
            wait_for(lambda: other.num_answered > before + 20)
        finally:
            enough.set()
        answers = [answer for client in clients for answer in client.result()]
        assert all(answer.text == wanted[answer.content] for answer in answers)
        retried = [answer for answer in answers if answer.num_retries]
        record_property("requests, client retries", (len(answers), len(retried)))
        # Only what had begun breaks off, and nothing does when the replica is told to end.
        assert len(retried) <= (NUM_CLIENTS if end == signal.SIGKILL else 0)

        # All that it had answered goes to the other one, and comes back when it is there again.
        before = other.num_answered
        for content in contents:
            assert wanted[content].startswith(text_of(chat(url, content, max_tokens=8)))
        assert other.num_answered == before + len(contents)
        victim.start()
        for content in contents:
            assert wanted[content].startswith(text_of(chat(url, content, max_tokens=8)))
        assert victim.num_answered > 0


@pytest.fixture
def pair(serve: Any, scripted: Any, tmp_path: Path) -> Iterator[tuple[str, list[Any]]]:
    """nginx in front of two servers that take one request each and never end by themselves."""
    servers = [
        serve(
            scripted([b"x"], endless=True, delay_s=STEP_S, context_length=20_000),
            parallel=1,
            max_queue=0,
        )
        for _ in range(2)
    ]
    with nginx(tmp_path, [int(server.url.rsplit(":", 1)[1]) for server in servers]) as url:
        yield url, servers


def open_stream(url: str) -> httpx.Response:
    """A stream of one conversation, or its refusal."""
    body = {"messages": messages("Hello"), "stream": True}
    request = HTTP.build_request("POST", f"{url}/v1/chat/completions", json=body)
    return HTTP.send(request, stream=True)


def test_a_token_is_sent_on_before_the_next_is_made(
    serve: Any, scripted: Any, tmp_path: Path
) -> None:
    class Waiting(scripted):  # type: ignore[misc]
        """After its first steps, those of the server's start, it takes one only when told."""

        steps = threading.Semaphore(10)

        def step(self, work: Any) -> Any:
            assert self.steps.acquire(timeout=SECONDS)
            return super().step(work)

    model = Waiting([b"x"], endless=True, context_length=20_000)
    server = serve(model)
    while model.steps.acquire(blocking=False):
        pass
    port = int(server.url.rsplit(":", 1)[1])
    with nginx(tmp_path, [port, free_port()]) as url:
        stream = open_stream(url)
        lines = stream.iter_lines()
        for _ in range(4):
            model.steps.release()
            while not text_in(next(lines)):
                pass
        model.steps.release(1000)
        stream.close()


def test_a_full_replica_hands_on(pair: tuple[str, list[Any]]) -> None:
    url, servers = pair
    for _ in range(3):  # refusals set no replica aside
        streams = [open_stream(url) for _ in servers]
        wait_for(lambda: [server.worker.num_running for server in servers] == [1, 1])
        refused = open_stream(url)
        assert refused.status_code == 429, "all are full"
        assert int(refused.headers["Retry-After"]) > 0
        for stream in (*streams, refused):
            stream.close()
        for server in servers:
            server.wait_idle()


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_hangs_up_is_gone(pair: tuple[str, list[Any]], is_stream: bool) -> None:
    url, servers = pair
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"messages": messages("Hello"), "stream": is_stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: sum(server.worker.num_running for server in servers) == 1)
    for server in servers:
        server.wait_idle()


def test_what_is_too_large_is_refused_by_the_server(pair: tuple[str, list[Any]]) -> None:
    url, _ = pair
    body = {"messages": messages("x" * (5 << 19))}
    answer = HTTP.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"]


def test_nobody_is_there(tmp_path: Path) -> None:
    with nginx(tmp_path, [free_port(), free_port()]) as url:
        answer = HTTP.post(f"{url}/v1/chat/completions", json={"messages": messages("Hello")})
        assert answer.status_code == 502
