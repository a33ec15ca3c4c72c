"""Every request has a name, in its answer and in one line of the log."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

import pytest

from tests.serve.conftest import RunningServer

LOGGER = "wrinklefree.serve"
ASK = {"messages": [{"role": "user", "content": "a secret prompt"}], "max_tokens": 5}


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if name in record.getMessage()]


def line_of(caplog: pytest.LogCaptureFixture, name: str) -> str:
    """The only line with this name, which may be written just after the client has its answer."""
    deadline = time.perf_counter() + 5
    while not (found := lines(caplog, name)):
        assert time.perf_counter() < deadline, "never written"
        time.sleep(0.002)
    (line,) = found
    return line


def test_a_client_may_name_its_request(
    ok_server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    answer = ok_server.http.post(
        "/v1/chat/completions?debug=1", json=ASK, headers={"X-Request-Id": "job-7/a"}
    )
    assert answer.headers["x-request-id"] == "job-7/a"
    line = line_of(caplog, "job-7/a")
    assert re.fullmatch(
        r"job-7/a POST /v1/chat/completions 200 \d+\.\d{3} s, \d+ prompt and \d+ completion tokens",
        line,
    )
    assert "secret" not in caplog.text


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "\u00e9"])
def test_other_names_are_replaced(ok_server: RunningServer, given: str) -> None:
    answer = ok_server.http.get("/health", headers={"X-Request-Id": given.encode("latin-1")})
    assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])


def test_refused_requests_are_logged_too(
    ok_server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    refused = ok_server.http.get("/no/such%0apath", headers={"X-Request-Id": "lost"})
    assert refused.status_code == 404
    assert refused.headers["x-request-id"] == "lost"
    line = line_of(caplog, "lost")
    assert line.startswith("lost GET /no/such%0apath 404 ")


def test_a_health_check_is_no_news(
    ok_server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    ok_server.http.get("/health", headers={"X-Request-Id": "check"})
    ok_server.http.post("/v1/completions", json={"prompt": "x"}, headers={"X-Request-Id": "news"})
    assert line_of(caplog, "news")
    assert lines(caplog, "check") == []


def test_names_differ(ok_server: RunningServer) -> None:
    names = {ok_server.http.get("/health").headers["x-request-id"] for _ in range(20)}
    assert len(names) == 20


def test_an_unexpected_error_is_a_500_with_its_name(
    serve: Any, scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = scripted([b"ok"])
    server = serve(model)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a path /home/someone")

    model.chat_ids = broken
    answer = server.chat()
    assert answer.status_code == 500
    assert "someone" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    assert line_of(caplog, f"{answer.headers['x-request-id']} failed")
