"""What comes over the wire when tokens, characters, stops and limits meet."""

from __future__ import annotations

import json
from typing import Any

import pytest

EMOJI = "👩‍🚀й語"


def streamed(answer: Any) -> tuple[str, str | None]:
    """Joined text and finish reason of a chat stream; every line must be JSON."""
    text, reason = "", None
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    for line in lines:
        choice = json.loads(line.removeprefix("data: "))["choices"][0]
        text += choice["delta"].get("content") or ""
        reason = choice["finish_reason"] or reason
    return text, reason


@pytest.mark.parametrize("logprobs", [False, True])
def test_split_characters_stream_whole(serve: Any, scripted: Any, logprobs: bool) -> None:
    server = serve(scripted(list(EMOJI.encode())))
    whole = server.chat(logprobs=logprobs).json()["choices"][0]["message"]["content"]
    answer = server.chat(logprobs=logprobs, stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert streamed(answer) == (whole, "stop") == (EMOJI, "stop")
    assert "�" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_the_length_limit_inside_a_character(serve: Any, scripted: Any, stream: bool) -> None:
    server = serve(scripted(list("a語".encode())))
    answer = server.chat(max_tokens=3, stream=stream)
    assert answer.status_code == 200
    if stream:
        text, reason = streamed(answer)
    else:
        choice = answer.json()["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert reason == "length"
    assert text.startswith("a")
    assert "語" not in text


def test_invalid_bytes_give_valid_json(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"\xff", b"a\xc3", b"(", b"\xed\xa0\x80"]))
    answer = server.chat(logprobs=True, top_logprobs=1)
    assert "a" in answer.json()["choices"][0]["message"]["content"]
    assert (
        streamed(server.chat(stream=True))[0] == answer.json()["choices"][0]["message"]["content"]
    )


@pytest.mark.parametrize(
    ("script", "stop", "text"),
    [
        ([b"a E", b"N", b"D b"], ["END"], "a "),
        ([b"E", b"NX"], ["END"], "ENX"),
        ([b"E", b"N"], "END", "EN"),
        ([b"END"], ["END"], ""),
    ],
)
def test_stop_strings_across_tokens(
    serve: Any, scripted: Any, script: list[bytes], stop: Any, text: str
) -> None:
    server = serve(scripted(script))
    choice = server.chat(stop=stop).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert streamed(server.chat(stop=stop, stream=True)) == (text, "stop")


def test_no_token_is_computed_after_a_stop(serve: Any, scripted: Any) -> None:
    model = scripted([b"a", b"STOP", b"b"], endless=True)
    server = serve(model)
    assert server.chat(stop="STOP").json()["usage"]["completion_tokens"] == 2
    assert model.slots[-1].num_sampled == 2


def test_a_special_token_can_be_a_stop(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"a", scripted.SPECIAL, b"b"]))
    assert server.chat().json()["choices"][0]["message"]["content"] == "ab"
    assert server.chat(stop="<turn>").json()["choices"][0]["message"]["content"] == "a"
    assert streamed(server.chat(stop=["<turn>", "x"], stream=True)) == ("a", "stop")
    assert server.complete(stop="<turn>", logprobs=1).json()["choices"][0]["text"] == "a"
    mixed = server.chat(stop=["a<turn>"])
    assert mixed.status_code == 400
    assert "a special token must be a stop of its own" in mixed.json()["error"]["message"]


@pytest.mark.parametrize("stop", [None, []])
@pytest.mark.parametrize("stream", [False, True])
def test_no_stop_stops_nothing(serve: Any, scripted: Any, stop: Any, stream: bool) -> None:
    answer = serve(scripted([b"a", b"b"])).chat(stop=stop, stream=stream)
    text = streamed(answer)[0] if stream else answer.json()["choices"][0]["message"]["content"]
    assert text == "ab"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_usage_is_null_in_every_chunk_but_the_last(ok_server: Any, path: str) -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    body = (
        {"prompt": "x"}
        if path == "/v1/completions"
        else {"messages": [{"role": "user", "content": "x"}]}
    )
    events = ok_server.http.post(path, json=body | asked).text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if "{" in event]
    assert len(chunks) > 2
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0
    asked["stream_options"] = {"include_usage": False}
    assert "usage" not in ok_server.http.post(path, json=body | asked).text


@pytest.mark.parametrize("stream", [False, True])
def test_every_end_token_ends_an_answer(serve: Any, scripted: Any, stream: bool) -> None:
    model = scripted([b"a", scripted.SPECIAL, b"b"])
    model.tokenizer.eos_ids = (scripted.END, scripted.SPECIAL)
    answer = serve(model).chat(stream=stream)
    if stream:
        assert streamed(answer) == ("a", "stop")
    else:
        choice = answer.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "stop")


def test_without_a_limit_the_context_is_the_limit(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"x"], endless=True, context_length=64))
    answer = server.complete().json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 64
    # a larger limit is cut to what the context holds
    assert server.complete(max_tokens=1000).json()["usage"]["total_tokens"] == 64


def test_the_prompt_must_leave_room_for_one_token(serve: Any, scripted: Any) -> None:
    model = scripted([b"x"], endless=True, context_length=64)
    server = serve(model)
    fits = server.complete(prompt=[65] * 63).json()
    usage = {"prompt_tokens": 63, "completion_tokens": 1, "total_tokens": 64}
    assert fits["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 0}}
    num_steps = model.num_steps
    for answer in (
        server.complete(prompt=[65] * 64),
        server.chat(messages=[{"role": "user", "content": "x" * 5000}]),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert "64" in error["message"]
        assert " 64 tokens" in error["message"] or "5007 tokens" in error["message"]
    assert model.num_steps == num_steps, "refused before any compute"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ""}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": []}]}),
        ("/v1/completions", {"prompt": "\x00\x01\x7f"}),
        ("/v1/completions", {"prompt": "<end><turn>"}),
    ],
)
def test_odd_prompts_get_an_answer(ok_server: Any, path: str, body: Any) -> None:
    assert ok_server.http.post(path, json=body).status_code == 200


def test_a_model_without_a_start_token_needs_a_prompt(serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    model.tokenizer.bos_id = None
    model.tokenizer.encode = lambda text, **_: list(text.encode())
    server = serve(model)
    refused = server.complete(prompt="")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "prompt"
    assert server.complete(prompt="x").json()["choices"][0]["text"] == "ok"


def test_a_template_that_refuses_is_a_bad_request(ok_server: Any) -> None:
    answer = ok_server.chat(messages=[{"role": "user", "content": "refuse"}])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "template_error"


def test_text_parts_and_developer_role(serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    server = serve(model)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    server.chat(messages=[{"role": "developer", "content": parts}])
    assert bytes(model.slots[-1].tokens[1:11]) == b"system: ab"


def test_timings_add_up(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"a", b"b", b"c"], delay_s=0.02))
    timings = server.chat().json()["timings"]
    assert timings["generation_s"] >= 0.06
    assert timings["time_to_first_token_s"] >= 0.02
    assert 20 < timings["completion_tokens_per_s"] < 50
    streamed_timings = server.chat(stream=True).text
    assert streamed_timings.count('"timings"') == 1
