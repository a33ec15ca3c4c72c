"""Scoring through HTTP: `echo` with `logprobs` gives every token of the prompt its probability."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wrinklefree.engine import LLM
from wrinklefree.serve.native import NativeModel


def choice(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    (only,) = answer.json()["choices"]
    return dict(only)


def test_the_prompt_is_scored_and_nothing_is_generated(ok_server: Any) -> None:
    answer = ok_server.complete(prompt="héy", echo=True, logprobs=1, max_tokens=0)
    got = choice(answer)
    assert (got["text"], got["finish_reason"]) == ("héy", "length")
    logprobs = got["logprobs"]
    assert logprobs["tokens"] == ["", "h", "bytes:\\xc3", "bytes:\\xa9", "y"]  # first: the BOS
    assert logprobs["token_logprobs"] == [None, -1.0, -2.0, -3.0, -4.0]
    assert logprobs["top_logprobs"][:2] == [None, {"h": -0.25}]
    assert logprobs["text_offset"] == [0, 0, 1, 1, 2]
    usage = answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 0)
    assert answer.json()["timings"]["generation_s"] >= 0
    ok_server.wait_idle()


def test_the_answer_follows_the_echoed_prompt(scripted: Any, serve: Any) -> None:
    server = serve(scripted([b" good", b" day", b"!"]))
    got = choice(server.complete(prompt="a", echo=True, logprobs=0, stop="!"))
    assert (got["text"], got["finish_reason"]) == ("a good day", "stop")
    assert got["logprobs"]["tokens"] == ["", "a", " good", " day"]
    assert got["logprobs"]["token_logprobs"] == [None, -1.0, -0.5, -0.5]
    assert got["logprobs"]["text_offset"] == [0, 0, 1, 6]
    # A stop string ends the answer, never the prompt.
    got = choice(server.complete(prompt="a!b", echo=True, stop="!"))
    assert (got["text"], got["logprobs"]) == ("a!b good day", None)


def test_several_prompts_of_one_token_and_more(ok_server: Any) -> None:
    answer = ok_server.complete(prompt=[[104], [104, 105]], echo=True, logprobs=0, max_tokens=0)
    logprobs = [one["logprobs"]["token_logprobs"] for one in answer.json()["choices"]]
    assert logprobs == [[None], [None, -1.0]]


def test_a_scored_prompt_may_fill_the_context(scripted: Any, serve: Any) -> None:
    server = serve(scripted([b"x"], context_length=8))
    assert choice(server.complete(prompt=[104] * 8, echo=True, max_tokens=0))["text"] == "h" * 8
    refused = server.complete(prompt=[104] * 9, echo=True, max_tokens=0)
    assert refused.status_code == 400
    assert "9 tokens" in refused.json()["error"]["message"]
    assert server.complete(prompt=[104] * 8, echo=True).status_code == 400


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 0}, "max_tokens: 0 needs echo=true"),
        ({"echo": True, "stream": True}, "echo needs stream=false"),
        ({"echo": 1}, "echo"),
    ],
)
def test_what_echo_cannot_do_is_named(ok_server: Any, fields: Any, words: str) -> None:
    answer = ok_server.complete(**fields)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_chat_has_no_echo(ok_server: Any) -> None:
    assert ok_server.chat(echo=True).status_code == 400


def test_tokenize_and_detokenize(ok_server: Any) -> None:
    asked = ok_server.http.post("/tokenize", json={"prompt": "hé"}).json()
    assert asked == {"count": 4, "max_model_len": 256, "tokens": [256, 104, 0xC3, 0xA9]}
    body = {"prompt": "h", "add_special_tokens": False, "model": "tiny"}
    assert ok_server.http.post("/tokenize", json=body).json()["tokens"] == [104]
    back = ok_server.http.post("/detokenize", json={"tokens": asked["tokens"]})
    assert back.json() == {"prompt": "hé"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "promt": "b"}, "promt"),
        ("/detokenize", {"tokens": [9999]}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
def test_wrong_fields_are_named(ok_server: Any, path: str, body: Any, field: str) -> None:
    answer = ok_server.http.post(path, json=body)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
    assert ok_server.http.post(path, json=body | {"model": "other"}).status_code in (400, 404)


def test_a_key_guards_the_tokenizer(scripted: Any, serve: Any) -> None:
    server = serve(scripted([b"x"]), api_keys=("secret",))
    assert server.http.post("/tokenize", json={"prompt": "a"}).status_code == 401
    assert server.http.post("/detokenize", json={"tokens": [1]}).status_code == 401


def test_a_real_models_scores_are_those_of_the_library(data_dir: Path, serve: Any) -> None:
    with LLM(data_dir / "stories260k_hf" / "stories260K-f32.gguf") as llm:
        server = serve(NativeModel(llm), parallel=8)
        text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text()
        rows = [llm.tokenizer.encode(text[at : at + 900]) for at in range(0, 2700, 900)]
        assert all(len(row) > 128 for row in rows)  # more than one scored chunk

        def ask(row: list[int]) -> dict[str, Any]:
            return choice(server.complete(prompt=row, echo=True, logprobs=2, max_tokens=1, seed=1))

        with ThreadPoolExecutor(3) as pool:  # together, so that chunks mix
            answers = list(pool.map(ask, rows))
        for row, answer in zip(rows, answers, strict=True):
            logprobs = answer["logprobs"]
            assert len(logprobs["tokens"]) == len(row) + 1
            scores = logprobs["token_logprobs"][1:-1]
            assert scores == llm.logprobs(row).tolist()  # bit for bit
            logits = llm.logits(row)
            for place in (0, 77, len(row) - 2):
                top = logprobs["top_logprobs"][place + 1]
                best = [
                    llm.tokenizer.token_bytes(i).decode() for i in np.argsort(-logits[place])[:2]
                ]
                assert list(top) == best
                is_likeliest = row[place + 1] == int(logits[place].argmax())
                assert (scores[place] == max(top.values())) == is_likeliest
        prompt = "Once upon a time"
        echoed = choice(server.complete(prompt=prompt, echo=True, max_tokens=0, logprobs=0))
        assert echoed["text"] == prompt  # without SentencePiece's leading space
        assert echoed["logprobs"]["text_offset"][:3] == [0, 0, 4]
