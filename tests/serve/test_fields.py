"""Each field of a request: null, wrong types and wild numbers get a 400 that names the field."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from tests.serve.conftest import started_server
from wrinklefree.serve.protocol import UNSUPPORTED, ChatRequest, CompletionRequest

HUGE = 10**400
NAN, INFINITY = float("nan"), float("inf")

# field -> values that must be refused; null is good for all of them
SHARED: dict[str, list[Any]] = {
    "model": [1, [], True],
    "stream": ["true", 1, 0.0, []],
    "stream_options": [True, [], {"include_usage": 1}, {"unknown": True}],
    "n": [0, -1, 17, 1.5, "1", True, HUGE, NAN, [1]],
    "stop": ["", [""], ["a"] * 5, 1, [1], {}, True, "x" * 257],
    "seed": [2**63, -(2**63) - 1, 1.5, "1", True, NAN, HUGE],
    "temperature": [-0.1, 2.1, "1", True, NAN, INFINITY, -INFINITY, HUGE, [], {}],
    "top_p": [0, -1, 1.1, "1", NAN, INFINITY, HUGE],
    "top_k": [-2, 1.5, "1", 2**31, NAN, HUGE],
    "min_p": [-0.1, 1, "1", NAN, INFINITY],
    "repetition_penalty": [0, -1, 0.001, 11, "1", True, NAN, INFINITY, HUGE],
    "presence_penalty": [-2.1, 2.1, "1", NAN, HUGE],
    "frequency_penalty": [-2.1, 2.1, "1", NAN, HUGE],
    "logit_bias": [{"x": 1}, {"5": 101}, {"5": NAN}, {"5": "1"}, {"-1": 1}, {"9999": 1}, [], "5"],
    "user": [1, []],
    "max_tokens": [0, -1, 1.5, "1", True, 2**31, NAN, HUGE],
    "response_format": [
        "json",
        1,
        [],
        {},
        {"type": "xml"},
        {"type": "regex"},
        {"type": "text", "a": 1},
    ],
}
CHAT: dict[str, list[Any]] = {
    **SHARED,
    "messages": [None, [], {}, "hi", [1], [{}], [{"role": "user"}], [{"content": "x"}]],
    "messages.0.role": ["tool", 1, None, ""],
    "messages.0.content": [1, None, [1], [{"type": "image_url"}], [{"type": "text"}], {}],
    "max_completion_tokens": [0, -1, 1.5, "1", NAN, HUGE],
    "logprobs": [1, "true", []],
    "top_logprobs": [-1, 21, 1.5, "1", NAN, HUGE],
    "tools": ["weather", {}, [1], [{}], [{"type": "x"}]],
    "tool_choice": ["always", 1, [], {"type": "function"}, "auto"],
    "parallel_tool_calls": [1, "true", []],
    "messages.0.name": [1, "", "x" * 65, []],
    "metadata": ["x", [], {"a": 1}, {str(i): "" for i in range(17)}],
    "modalities": ["text", ["audio"], [1]],
    "prompt_cache_key": [1, []],
    "safety_identifier": [1, []],
    "service_tier": ["flex", "priority", 1],
    "store": [True, "false", 1],
}
TEXT: dict[str, list[Any]] = {
    **SHARED,
    "prompt": [None, [], [[]], 1, {}, [1.5], [-1], [HUGE], [True], [1, "a"], [9999], ["a"] * 17],
    "logprobs": [-1, 6, 1.5, "1", True, NAN, HUGE],
    "echo": [1, "true", []],
}
REQUIRED = {"messages", "prompt", "messages.0.role", "messages.0.content"}
ENDPOINTS = {
    "/v1/chat/completions": (CHAT, {"messages": [{"role": "user", "content": "hi"}]}),
    "/v1/completions": (TEXT, {"prompt": "hi"}),
}


def with_field(body: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A copy of `body` in which the dotted field has this value."""
    copy: dict[str, Any] = json.loads(json.dumps(body))
    *path, name = field.split(".")
    place: Any = copy
    for part in path:
        place = place[int(part)] if part.isdigit() else place[part]
    place[name] = value
    if field == "stream_options" and value is not None:
        copy["stream"] = True
    if field == "top_logprobs":
        copy["logprobs"] = True
    return copy


@pytest.mark.parametrize(
    ("fields", "kind"), [(CHAT, ChatRequest), (TEXT, CompletionRequest)], ids=["chat", "text"]
)
def test_the_tables_hold_every_field(fields: dict[str, Any], kind: type[BaseModel]) -> None:
    assert {field.split(".")[0] for field in fields} == set(kind.model_fields)


@pytest.mark.parametrize("stream", [False, True])
def test_null_is_absent_for_fields_that_are_not_supported(ok_server: Any, stream: bool) -> None:
    assert ok_server.chat(**dict.fromkeys(UNSUPPORTED), stream=stream).status_code == 200
    for field in UNSUPPORTED:
        assert ok_server.chat(**{field: {}}).json()["error"]["param"] == field


def try_all_values(http: httpx.Client, path: str) -> None:
    fields, good = ENDPOINTS[path]
    for field, values in fields.items():
        for value in values:
            # json.dumps writes NaN and Infinity, which servers do meet
            body = json.dumps(with_field(good, field, value))
            headers = {"Content-Type": "application/json"}
            answer = http.post(path, content=body, headers=headers)
            shown = f"{field}={str(value)[:40]}"
            assert answer.status_code == 400, shown
            error = answer.json()["error"]
            assert field.split(".")[0] in error["message"], shown
            assert error["type"] == "invalid_request_error"
        if field not in REQUIRED:
            for stream in (False, True):
                asked = with_field(good, field, None) | (
                    {"stream": stream} if field != "stream" else {}
                )
                assert http.post(path, json=asked).status_code == 200, f"{field}=null"
    assert http.post(path, json=good).status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS, ids=["chat", "text"])
def test_wrong_values_are_refused_by_name_and_the_server_lives(ok_server: Any, path: str) -> None:
    try_all_values(ok_server.http, path)


@pytest.fixture(scope="module")
def without_asserts(data_dir: Path) -> Iterator[httpx.Client]:
    """A server under `python -O`, which drops every assert."""
    model = data_dir / "stories260k_hf"
    with (
        started_server(model, "--context", "32", python=["-O"]) as (_, url, _),
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        yield http


@pytest.mark.parametrize("path", ENDPOINTS, ids=["chat", "text"])
def test_no_check_rests_on_assert(without_asserts: httpx.Client, path: str) -> None:
    try_all_values(without_asserts, path)


@pytest.mark.parametrize("field", ["temperature", "top_p", "seed", "n", "max_tokens"])
def test_a_float_beyond_range_is_refused(ok_server: Any, field: str) -> None:
    body = f'{{"prompt": "hi", "{field}": 1e400}}'
    headers = {"Content-Type": "application/json"}
    answer = ok_server.http.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("functions", "'functions' is not supported"),
        ("reasoning_effort", "'reasoning_effort' is not supported"),
        ("tempratur", "did you mean 'temperature'"),
        ("x" * 5000, "unknown field 'xxx"),
        ("语", "unknown field"),
    ],
)
def test_unknown_fields_are_refused_by_name(ok_server: Any, field: str, message: str) -> None:
    answer = ok_server.chat(**{field: {"a": 1}})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert len(answer.content) < 400


def test_what_changes_no_answer_is_accepted(ok_server: Any) -> None:
    bookkeeping = {
        "user": "u-1",
        "metadata": {"task": "t-1"},
        "modalities": ["text"],
        "prompt_cache_key": "p-1",
        "safety_identifier": "s-1",
        "service_tier": "auto",
        "store": False,
        "parallel_tool_calls": False,
    }
    assert ok_server.chat(**bookkeeping).json()["choices"][0]["message"]["content"] == "ok"
    assert ok_server.complete(user="u-1").json()["choices"][0]["text"] == "ok"


def test_the_name_of_a_speaker_goes_to_the_template(serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    messages = [{"role": "user", "content": "hi", "name": "Ann"}]
    assert serve(model).chat(messages=messages).status_code == 200
    assert model.conversations == [(messages, [])]


def test_top_k_minus_one_is_all_and_seed_minus_one_is_random(serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    server = serve(model)
    assert server.complete(top_k=-1, seed=-1).status_code == 200
    assert (model.slots[-1].sampling.top_k, model.slots[-1].sampling.seed) == (0, None)
    assert server.complete(seed=7, n=2).status_code == 200
    assert [slot.sampling.seed for slot in model.slots][-2:] == [7, 8]


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"include_usage": True}},
        {"top_logprobs": 2},
        {"max_tokens": 3, "max_completion_tokens": 4},
    ],
    ids=["stream_options", "top_logprobs", "max_tokens"],
)
def test_fields_that_contradict_each_other_are_refused(
    ok_server: Any, fields: dict[str, Any]
) -> None:
    answer = ok_server.chat(**fields)
    assert answer.status_code == 400
    assert next(iter(fields)) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        '{"prompt": "hi"}'.encode("utf-16"),
        b'{"prompt": "\xc3"}',
        b'{"prompt": "\x00"}',
        b'{"prompt": "\\ud800"}',
        b'{"\\ud800": 1}',
        b"[]",
        b"null",
        b'"hi"',
        b'{"a":' * 20_000,
        b'{"prompt": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_bodies_that_are_no_good_json(ok_server: Any, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = ok_server.http.post("/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert ok_server.complete().status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": [65] * 300_000 + ["x"]}),
        ("/v1/completions", {"prompt": ["a"] * 300_000 + [1]}),
        ("/v1/chat/completions", {"messages": [{"role": "user"}] * 60_000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * 300_000}]}),
        ("/v1/completions", {"prompt": "a"} | {f"f{i}": 1 for i in range(100_000)}),
        ("/v1/completions", {"prompt": "a", "logit_bias": {str(i): "x" for i in range(150_000)}}),
    ],
)
def test_many_mistakes_take_no_longer_than_one(ok_server: Any, path: str, body: Any) -> None:
    began = time.process_time()  # of this process, server included
    assert ok_server.http.post(path, json=body).status_code == 400
    assert time.process_time() - began < 1


def test_errors_repeat_nothing_of_the_request(ok_server: Any) -> None:
    secret = "my-secret-text"
    for body in [
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": secret},
        {"messages": [{"role": "user", "content": "refuse"}, {"role": "user", "content": secret}]},
        {"messages": [{"role": "user", "content": secret}], "temperature": secret},
        {"messages": [{"role": "user", "content": secret}], "logit_bias": {secret: 1}},
        {"messages": [{"role": "user", "content": secret}], "stop": [secret, 1]},
        {"messages": [{"role": "user", "content": secret * 100}]},
        {"messages": [{"role": "user", "content": secret}], "model": secret},
    ]:
        answer = ok_server.http.post("/v1/chat/completions", json=body)
        assert answer.status_code in (400, 404)
        assert secret not in answer.text
