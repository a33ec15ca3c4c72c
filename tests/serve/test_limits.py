"""Overload, sizes, hosts, keys and other things a server must withstand."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from wrinklefree.serve.app import build_app
from wrinklefree.serve.errors import ApiError
from wrinklefree.serve.settings import Settings
from wrinklefree.serve.worker import Worker

ASK = {"messages": [{"role": "user", "content": "hi"}]}


def raw_exchange(url: str, request: bytes) -> bytes:
    """Sends bytes as they are and returns the start of the answer."""
    host, port = urlsplit(url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def test_a_full_queue_is_429_with_retry_after(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"x"], endless=True, delay_s=0.01), parallel=1, max_queue=1)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.chat(max_tokens=20), range(4)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200, 200, 429, 429]
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == "rate_limit_error"
    assert server.chat(max_tokens=2).status_code == 200


def test_more_choices_than_the_server_can_ever_hold(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"ok"]), parallel=1, max_queue=1)
    assert server.chat(n=3).status_code == 400
    assert server.chat(n=2).status_code == 200


def test_many_streams_share_the_steps(serve: Any, scripted: Any) -> None:
    model = scripted([b"a", b"b", b"c"] * 8, delay_s=0.002)
    server = serve(model, parallel=16, max_queue=200)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: server.chat(stream=True), range(64)))
    assert all(answer.text.count('"content":"a"') == 8 for answer in answers)
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    assert max(model.batch_sizes) == 16
    assert server.worker.num_running == server.worker.num_waiting == 0


def test_long_prompts_hold_up_no_short_one(serve: Any, scripted: Any) -> None:
    """More of them than there are helper threads, each of which takes for ever."""
    model = scripted([b"ok"])
    encode, goes_on = model.tokenizer.encode, threading.Event()

    def slow(text: str, **options: Any) -> Any:
        if len(text) > 100_000:
            assert goes_on.wait(60)
        return encode(text, **options)

    model.tokenizer.encode = slow
    server = serve(model)
    with ThreadPoolExecutor(50) as pool:
        long = [pool.submit(server.complete, prompt="x" * 100_001) for _ in range(40)]
        long += [
            pool.submit(server.http.post, "/tokenize", json={"prompt": "x" * 100_001})
            for _ in range(10)
        ]
        try:
            assert server.complete().json()["choices"][0]["text"] == "ok"
        finally:
            goes_on.set()
        assert {answer.result().status_code for answer in long} == {200, 400}


def test_health_is_fast_under_load(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"x"], endless=True, delay_s=0.001), parallel=8)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(server.chat) for _ in range(8)]
        times = sorted(server.http.get("/health").elapsed.total_seconds() for _ in range(20))
        assert all(future.result().status_code == 200 for future in running)
    assert times[len(times) // 2] < 0.05


def test_health_is_503_until_a_token_was_generated(scripted: Any) -> None:
    app = build_app(scripted([b"ok"]), Settings(model_name="tiny"))
    client = TestClient(app, base_url="http://localhost")  # no lifespan: no engine thread
    assert client.get("/health").status_code == 503
    assert client.get("/ready").status_code == 503


def test_a_model_that_generates_nothing_never_gets_ready(scripted: Any) -> None:
    model = scripted()
    model.fail_at = 1
    worker = Worker(model, Settings(model_name="tiny"))
    worker.start()
    worker._thread.join(timeout=5)
    assert worker.is_broken
    assert not worker.is_ready
    with pytest.raises(ApiError, match="shutting down"):
        worker.submit([])


def test_an_engine_failure_ends_its_requests_only(serve: Any, scripted: Any) -> None:
    model = scripted([b"x"], endless=True)
    server = serve(model)
    model.fail_at = model.num_steps + 3
    failed = server.chat()
    assert failed.status_code == 500
    assert "scripted" not in failed.text
    model.fail_at = model.num_steps + 3
    assert server.chat(stream=True).text.rstrip().split("\n\n")[-1].startswith('data: {"error"')
    assert server.chat(max_tokens=3).status_code == 200


def test_a_large_body_is_413(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"ok"]), max_body_bytes=1000)
    headers = {"Content-Type": "application/json"}
    answer = server.http.post("/v1/completions", content=b" " * 1001, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    assert server.complete().status_code == 200


def test_a_slow_body_is_408(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"ok"]), body_timeout_s=0.1)
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    assert b"408" in raw_exchange(server.url, head).split(b"\r\n")[0]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_accepted(ok_server: Any, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = ok_server.http.post("/v1/completions", content=b'{"prompt": "x"}', headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8080", ""]
)
def test_other_host_names_are_refused(ok_server: Any, host: str) -> None:
    answer = ok_server.http.get("/v1/models", headers={"Host": host})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "[::1]:80", "127.0.0.1"])
def test_loopback_names_are_accepted(ok_server: Any, host: str) -> None:
    assert ok_server.http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_there_is_no_cors(ok_server: Any) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = ok_server.http.options("/v1/completions", headers=asked)
    plain = ok_server.http.get("/v1/models", headers=asked)
    assert preflight.status_code == 405
    for answer in (preflight, plain):
        assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("path", "is_open"),
    [
        ("/", True),
        ("/health", True),
        ("/ready", True),
        ("/v1/models", False),
        ("/v1/models/tiny", False),
        ("//", False),
        ("/health/", False),
        ("/health/../v1/models", False),
        ("/%2e%2e/v1/models", False),
        ("//v1/models", False),
        ("/V1/models", False),
        ("/unknown", False),
    ],
)
def test_keys_guard_all_but_three_paths(keyed: Any, path: str, is_open: bool) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    status = raw_exchange(keyed.url, request).split(b" ")[1]
    assert status == (b"200" if is_open else b"401")


@pytest.fixture(scope="module")
def keyed(serve_for_module: Any, scripted: Any) -> Any:
    return serve_for_module(scripted([b"ok"]), api_keys=("first-key", "sécond"))


def test_the_openai_client_sends_the_key(keyed: Any) -> None:
    answer = keyed.client.chat.completions.create(model="tiny", **ASK)
    assert answer.choices[0].message.content == "ok"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (b"Bearer first-key", 200),
        (b"bearer first-key", 200),
        ("Bearer sécond".encode(), 200),
        (b"Bearer first-ke", 401),
        (b"Bearer first-keyy", 401),
        (b"Bearer", 401),
        (b"", 401),
        (b"first-key", 401),
        (b"Basic first-key", 401),
        (b"Bearer \xff", 401),
    ],
)
def test_keys(keyed: Any, authorization: bytes, status: int) -> None:
    answer = keyed.http.get("/v1/models", headers=[(b"Authorization", authorization)])
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert (
        keyed.client.chat.completions.create(model="tiny", **ASK).choices[0].message.content == "ok"
    )


@pytest.mark.parametrize(
    "request_head",
    [b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n", b"\x00\x01\x02\r\n\r\n"],
    ids=["huge header", "no HTTP"],
)
def test_broken_http_does_not_hurt(ok_server: Any, request_head: bytes) -> None:
    raw_exchange(ok_server.url, request_head)
    assert ok_server.complete().status_code == 200


def test_unknown_paths_and_methods_answer_in_openais_shape(ok_server: Any) -> None:
    for answer, status in [
        (ok_server.http.get("/v1/embeddings"), 404),
        (ok_server.http.get("/v1/completions"), 405),
        (ok_server.http.get("/docs"), 404),
        (ok_server.http.get("/redoc"), 404),
    ]:
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_the_page_may_run_only_itself(ok_server: Any) -> None:
    answer = ok_server.http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "'unsafe" not in policy
    assert "innerHTML" not in answer.text
    # no outside resource: the only absolute address is the name space of the icon's SVG
    assert answer.text.count("://") == answer.text.count("http://www.w3.org/2000/svg")


def test_answers_are_not_sniffed_or_stored(ok_server: Any) -> None:
    answer: httpx.Response = ok_server.http.get("/v1/models")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_head_asks_whether_the_server_is_there(ok_server: Any, path: str) -> None:
    answer = ok_server.http.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["Content-Length"] == ok_server.http.get(path).headers["Content-Length"]
