"""The official client library against a real server on loopback."""

from __future__ import annotations

from typing import Any

import openai
import pytest

WORDS = ["Hel", "lo ", "wörld", ", ", "again"]
TEXT = "".join(WORDS)
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def client(serve: Any, scripted: Any) -> openai.OpenAI:
    server = serve(scripted([word.encode() for word in WORDS]))
    client: openai.OpenAI = server.client
    return client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    # <s>, "user: hi", and five words with the end token
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 6)
    assert answer.usage.total_tokens == 15


def test_chat_stream_equals_the_whole_answer(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 6 + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": True}])
def test_usage_comes_once_and_only_when_asked(client: openai.OpenAI, options: Any) -> None:
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options=options))
    with_usage = [chunk for chunk in chunks if chunk.usage is not None]
    if options and options.get("include_usage"):
        assert with_usage == [chunks[-1]]
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 15
    else:
        assert with_usage == []
        assert all(chunk.choices for chunk in chunks)


def test_completions_with_and_without_stream(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="hi")
    assert answer.object == "text_completion"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (TEXT, "stop")
    chunks = list(client.completions.create(model="tiny", prompt="hi", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT


def test_several_prompts_and_choices_come_in_order(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["a", "bcd"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in answer.choices} == {TEXT}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2 + 4, "each prompt counts once"
    assert answer.usage.completion_tokens == 4 * 6
    by_ids = client.completions.create(model="tiny", prompt=[[104, 105], [104]])
    assert len(by_ids.choices) == 2


def test_stop_strings_and_length(client: openai.OpenAI) -> None:
    stopped = client.chat.completions.create(**ASK, stop=["o w", "never"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == (
        "Hell",
        "stop",
    )
    cut = client.chat.completions.create(**ASK, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("Hello ", "length")
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 2
    cut = client.chat.completions.create(**ASK, max_completion_tokens=1)
    assert cut.choices[0].message.content == "Hel"


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(client: openai.OpenAI, stream: bool) -> None:
    fields: Any = {**ASK, "logprobs": True, "top_logprobs": 3, "stream": stream}
    answer = client.chat.completions.create(**fields)
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [token.token for token in tokens] == WORDS
    assert b"".join(bytes(token.bytes) for token in tokens) == TEXT.encode()
    assert all(token.logprob == -0.5 for token in tokens)
    # an impossible token has OpenAI's lowest value, since JSON has no -Infinity
    assert [top.logprob for top in tokens[0].top_logprobs] == [-0.5, -1.5, -9999.0]


def test_completion_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="hi", logprobs=1, stop="again")
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == WORDS[:-1]
    assert logprobs.text_offset == [0, 3, 6, 11]
    assert logprobs.token_logprobs == [-0.5] * 4
    assert logprobs.top_logprobs == [{word: -0.5} for word in WORDS[:-1]]


def test_sampling_fields_reach_the_model(serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    client = serve(model).client
    client.chat.completions.create(
        **ASK, n=2, seed=-3, temperature=0.5, top_p=0.9, logit_bias={"7": -5},
        presence_penalty=0.1, frequency_penalty=0.2, extra_body={"top_k": 5, "min_p": 0.05},
    )  # fmt: skip
    first, second = (slot.sampling for slot in list(model.slots)[-2:])
    assert (first.seed, second.seed) == (2**64 - 3, 2**64 - 2)
    assert (first.temperature, first.top_p, first.top_k, first.min_p) == (0.5, 0.9, 5, 0.05)
    assert (first.presence_penalty, first.frequency_penalty) == (0.1, 0.2)
    assert first.logit_bias == ((7, -5.0),)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "wrinklefree"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(**{**ASK, "model": "other"})
    assert error.value.code == "model_not_found"


def test_errors_are_the_clients_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**ASK, temperature=9)
    assert error.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**ASK, store=True)
    assert error.value.code == "unsupported_parameter"
