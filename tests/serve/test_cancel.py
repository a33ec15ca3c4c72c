"""A client that hangs up frees its slot within a step, whatever its request is doing."""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

STEP_S = 0.02
# One decode step and 200 ms, and what a busy test machine adds.
FREED_WITHIN_S = STEP_S + 0.2 + 0.3


@pytest.fixture
def slow(scripted: Any) -> Any:
    """A model that would take minutes to answer."""
    return scripted([b"x"], endless=True, delay_s=STEP_S, context_length=20_000)


def call(url: str, **fields: Any) -> socket.socket:
    """Sends a completion request and returns the open connection."""
    body = json.dumps({"prompt": "hi", **fields}).encode()
    host, port = urlsplit(url).netloc.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def wait_for(condition: Any, timeout_s: float = 5.0) -> None:
    deadline = time.perf_counter() + timeout_s
    while not condition():
        assert time.perf_counter() < deadline, "never happened"
        time.sleep(0.002)


@pytest.mark.parametrize("stream", [False, True])
def test_while_generating(serve: Any, slow: Any, stream: bool) -> None:
    server = serve(slow)
    connection = call(server.url, stream=stream)
    wait_for(lambda: slow.slots[-1].num_sampled > 3)
    connection.close()
    assert server.wait_idle() < FREED_WITHIN_S
    num_steps = slow.num_steps
    time.sleep(5 * STEP_S)
    assert slow.num_steps == num_steps, "the engine rests"


@pytest.mark.parametrize("stream", [False, True])
def test_in_prefill(serve: Any, slow: Any, stream: bool) -> None:
    slow.delay_s = 0.15  # over the step target: chunks shrink to the smallest
    server = serve(slow)
    connection = call(server.url, stream=stream, prompt=[65] * 15_000)
    wait_for(lambda: len(slow.slots) > 1 and len(slow.slots[-1].tokens) > 100)
    connection.close()
    assert server.wait_idle() < FREED_WITHIN_S + slow.delay_s
    assert len(slow.slots[-1].tokens) < 1000


@pytest.mark.parametrize("stream", [False, True])
def test_a_queued_request_leaves_the_others_alone(serve: Any, slow: Any, stream: bool) -> None:
    server = serve(slow, parallel=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.complete, max_tokens=50)
        wait_for(lambda: server.worker.num_running == 1)
        queued = call(server.url, stream=stream)
        wait_for(lambda: server.worker.num_waiting == 1)
        third = call(server.url, max_tokens=3)
        wait_for(lambda: server.worker.num_waiting == 2)
        queued.close()
        wait_for(lambda: server.worker.num_waiting == 1, FREED_WITHIN_S)
        answer = running.result()
    assert answer.json()["usage"]["completion_tokens"] == 50
    with third, third.makefile("rb") as answer:
        assert any(b'"completion_tokens":3' in line for line in answer)


def test_one_of_several_choices_cannot_outlive_its_request(serve: Any, slow: Any) -> None:
    server = serve(slow, parallel=2)
    connection = call(server.url, n=8)
    wait_for(lambda: server.worker.num_running == 2)
    connection.close()
    assert server.wait_idle() < FREED_WITHIN_S


def test_many_aborts_leak_nothing(serve: Any, slow: Any) -> None:
    slow.delay_s = 0.001
    server = serve(slow, max_queue=1000)
    chance = random.Random(0)
    for _ in range(200):
        connection = call(server.url, stream=chance.random() < 0.5, n=chance.randint(1, 3))
        time.sleep(chance.choice([0, 0, 0.002, 0.005]))
        connection.close()
    server.wait_idle()
    wait_for(lambda: len(slow.live_slots) == 0)
    assert server.complete(max_tokens=3).json()["choices"][0]["text"] == "xxx"
    assert server.http.get("/health").status_code == 200


def test_stopping_ends_what_runs(serve: Any, slow: Any) -> None:
    server = serve(slow)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.complete)
        wait_for(lambda: server.worker.num_running == 1)
        server.worker.stop()
        assert running.result().status_code == 503
    assert server.complete().status_code == 503
    assert server.http.get("/health").status_code == 503
