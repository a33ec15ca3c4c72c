"""Answers of a given form: JSON by schema, and patterns, from models that would say anything."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from wrinklefree.engine import LLM
from wrinklefree.serve.native import NativeModel

FILES = ["stories260k_hf/stories260K-f32.gguf", "ternary_gguf_fixture/rand256-tq2_0.gguf"]
PATTERN = r"[A-C]{3}-\d{2}(yes|no)"
REGEX = {"type": "regex", "regex": PATTERN}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


def by_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema}}


@pytest.fixture(scope="module", params=FILES, ids=["stories", "ternary"])
def server(request: pytest.FixtureRequest, data_dir: Path, serve_for_module: Any) -> Any:
    with LLM(data_dir / request.param) as llm:
        yield serve_for_module(NativeModel(llm), parallel=8)


def choices_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_is_followed(server: Any, temperature: float) -> None:
    answer = server.chat(response_format=by_schema(SCHEMA), temperature=temperature, n=4, seed=1)
    for choice in choices_of(answer):
        assert choice["finish_reason"] == "stop"
        pet = json.loads(choice["message"]["content"])
        assert pet.keys() == {"name", "age", "kind"}
        assert len(pet["name"]) <= 8
        assert 0 <= pet["age"] <= 99
        assert pet["kind"] in ("cat", "dog")


@pytest.mark.parametrize("temperature", [0, 2])
def test_a_pattern_is_followed_to_its_end(server: Any, temperature: float) -> None:
    asked = {"response_format": REGEX, "temperature": temperature, "seed": 3}
    for choice in choices_of(server.complete(**asked, n=4)):
        assert re.fullmatch(PATTERN, choice["text"])
        assert choice["finish_reason"] == "stop"
    # A limit cuts it like any other answer.
    (cut,) = choices_of(server.complete(**asked, max_tokens=2))
    assert cut["finish_reason"] == "length"
    assert not re.fullmatch(PATTERN, cut["text"])


def test_an_object_is_json(server: Any) -> None:
    # An untrained model may never close it: what there is begins an object.
    answer = server.chat(response_format={"type": "json_object"}, max_tokens=40, seed=0)
    (choice,) = choices_of(answer)
    text = choice["message"]["content"]
    assert text.lstrip().startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)


def test_streams_and_logprobs(server: Any) -> None:
    asked = {"response_format": REGEX, "temperature": 1, "seed": 5, "logprobs": True}
    (whole,) = choices_of(server.chat(**asked, top_logprobs=2))
    answer = server.chat(**asked, top_logprobs=2, stream=True)
    chunks = [
        json.loads(line.removeprefix("data: "))["choices"][0]
        for line in answer.text.splitlines()
        if line.startswith("data: {")
    ]
    text = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
    assert text == whole["message"]["content"]
    # Log-probabilities are the model's own: a token that the rule forced may be unlikely.
    assert all(entry["logprob"] <= 0 for entry in whole["logprobs"]["content"])


def test_others_in_the_batch_are_not_touched(server: Any) -> None:
    plain = {"prompt": [403] * 40, "max_tokens": 30, "seed": 7}
    formed = {"response_format": REGEX, "seed": 2}
    alone = choices_of(server.complete(**plain)), choices_of(server.complete(**formed))
    with ThreadPoolExecutor(8) as pool:
        pairs = [
            (pool.submit(server.complete, **plain), pool.submit(server.complete, **formed))
            for _ in range(4)
        ]
        for first, second in pairs:
            assert (choices_of(first.result()), choices_of(second.result())) == alone


class Pet(BaseModel):
    name: str = Field(max_length=6)
    legs: int = Field(ge=0, le=8)


def test_the_client_parses_a_model(server: Any) -> None:
    completion = server.client.chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": "A pet"}], response_format=Pet, seed=1
    )
    pet = completion.choices[0].message.parsed
    assert isinstance(pet, Pet)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param({"type": "xml"}, id="unknown type"),
        pytest.param({}, id="no type"),
        pytest.param({"type": "json_schema"}, id="no schema"),
        pytest.param({"type": "json_schema", "json_schema": {"schema": {}}}, id="no name"),
        pytest.param(by_schema({"type": "nothing"}), id="wrong schema"),
        pytest.param(by_schema({"$ref": "http://localhost/other.json"}), id="reference outside"),
        pytest.param(by_schema({"enum": []}), id="nothing fits"),
        pytest.param({"type": "regex", "regex": "("}, id="wrong pattern"),
        pytest.param({"type": "regex", "regex": "[^\\x00-\\U0010ffff]"}, id="no character"),
        pytest.param({"type": "regex", "regex": "a" * 5000}, id="long pattern"),
        pytest.param({"type": "regex", "regex": r"(a{900}){900}{900}"}, id="huge pattern"),
        pytest.param("json", id="a string"),
        pytest.param([], id="a list"),
    ],
)
def test_a_form_that_cannot_be_followed_is_refused(server: Any, form: Any) -> None:
    answer = server.chat(response_format=form)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert "response_format" in error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"type": "string", "pattern": f"^.*x{i}.*$"} for i in range(40)]},  # for ever
        {"type": "integer", "multipleOf": 9999991},  # gigabytes
    ],
    ids=["time", "memory"],
)
def test_a_form_that_would_take_too_much_is_refused(server: Any, schema: dict[str, Any]) -> None:
    plain = {"temperature": 0, "max_tokens": 5}
    expected = choices_of(server.complete(**plain))
    with ThreadPoolExecutor(4) as pool:
        refused = [pool.submit(server.complete, response_format=by_schema(schema)) for _ in "ab"]
        assert choices_of(server.complete(**plain)) == expected  # meanwhile
        for answer in refused:
            assert answer.result().status_code == 400
            assert "too much time or memory" in answer.result().json()["error"]["message"]


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"type": "regex", "regex": "secret("}, "unclosed group"),
        ({"type": "regex", "regex": r"(secret)\1"}, "backreferences are not supported"),
        (by_schema({"type": "string", "pattern": "secret["}), "unclosed character class"),
    ],
)
def test_the_reason_is_told_and_the_pattern_is_not(server: Any, form: Any, why: str) -> None:
    message = server.chat(response_format=form).json()["error"]["message"]
    assert why in message
    assert "secret" not in message


def test_null_and_text_are_no_form(server: Any) -> None:
    asked = {"temperature": 0, "max_tokens": 5}
    plain = choices_of(server.complete(**asked))
    for form in (None, {"type": "text"}):
        assert choices_of(server.complete(**asked, response_format=form)) == plain


def test_a_model_without_an_end_token_says_so(scripted: Any, serve: Any) -> None:
    model = scripted([b"ok"])
    model.tokenizer.eos_ids = ()
    answer = serve(model).chat(response_format=REGEX)
    assert answer.status_code == 400
    assert "no end token" in answer.json()["error"]["message"]


def test_a_grammar_that_gives_up_fails_alone(scripted: Any, serve: Any) -> None:
    """The scripted model does not heed the rule, so its first token breaks it."""
    server = serve(scripted([b"zz"]))
    assert server.chat(response_format=REGEX).status_code == 500
    assert server.chat().json()["choices"][0]["message"]["content"] == "zz"
    server.wait_idle()
