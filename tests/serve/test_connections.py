"""Connections that ask for nothing do not stay, and do not keep others out."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serve.conftest import started_server
from wrinklefree.serve import connections

HEAD_S = 1.0
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = urlsplit(url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def is_healthy(connection: socket.socket) -> bool:
    connection.sendall(GET)
    answer = b""
    while not answer.endswith(b"}") and (piece := connection.recv(9999)):
        answer += piece
    return answer.startswith(b"HTTP/1.1 200")


@pytest.fixture
def server(serve: Any, scripted: Any) -> Any:
    model = scripted([b"x"] * 4, delay_s=HEAD_S / 2)
    return serve(model, head_timeout_s=HEAD_S)


@pytest.mark.parametrize("said", [b"", b"GET /hea", GET[:-2]], ids=["nothing", "a bit", "all but"])
def test_half_a_request_is_not_waited_for(server: Any, said: bytes) -> None:
    with connected(server.url) as connection:
        connection.sendall(said)
        assert connection.recv(100) == b""


def test_a_second_request_is_due_like_the_first(server: Any) -> None:
    with connected(server.url) as connection:
        assert is_healthy(connection)
        connection.sendall(GET[:7])
        assert connection.recv(100) == b""


def test_an_answer_takes_as_long_as_it_takes(server: Any) -> None:
    began = time.perf_counter()
    assert server.complete().json()["choices"][0]["text"] == "xxxx"
    assert time.perf_counter() - began > 2 * HEAD_S
    assert "[DONE]" in server.complete(stream=True).text


def test_a_body_too_long_is_refused_before_it_is_sent(server: Any) -> None:
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    )
    with connected(server.url) as connection:
        connection.sendall(head)
        assert connection.recv(9999).startswith(b"HTTP/1.1 413")


@contextmanager
def few_files(count: int) -> Iterator[None]:
    """For processes that are started meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_make_room(data_dir: Path, tmp_path: Path) -> None:
    """A server that may open 600 files keeps 300 connections: of 500, the last ones."""
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log.txt").open("w+"))
        with few_files(600):
            process, url, _ = stack.enter_context(
                started_server(data_dir / "stories260k_hf", log=log)
            )
        idle = []
        for _ in range(10):
            idle += [stack.enter_context(connected(url)) for _ in range(50)]
            assert httpx.get(f"{url}/health").status_code == 200  # a burst at a time
        assert httpx.get(f"{url}/health").status_code == 200
        open_files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        assert 250 < open_files < 350
        assert idle[0].recv(1) == b""
        assert is_healthy(idle[-1])
        log.seek(0)
        assert log.read() == ""


def test_the_limit_follows_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in [(1024, 512), (10**6, 10_000), (resource.RLIM_INFINITY, 10_000)]:
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connections.max_connections() == most
