"""The server over the native engine, with a trained tiny model and a ternary one."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wrinklefree.engine import LLM, SamplingParams
from wrinklefree.serve.native import NativeModel

FILES = ["stories260k_hf/stories260K-f32.gguf", "ternary_gguf_fixture/rand256-tq2_0.gguf"]
STORY = ", there was a little girl named Lily. She loved to play outside in the park."


@pytest.fixture(scope="module", params=FILES, ids=["stories", "ternary"])
def llm(request: pytest.FixtureRequest, data_dir: Path) -> Any:
    with LLM(data_dir / request.param) as llm:
        yield llm


@pytest.fixture(scope="module")
def server(llm: LLM, serve_for_module: Any) -> Any:
    return serve_for_module(NativeModel(llm), parallel=16, max_queue=200)


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_the_trained_model_tells_its_story(data_dir: Path, serve: Any) -> None:
    with LLM(data_dir / FILES[0]) as llm:
        server = serve(NativeModel(llm))
        answer = server.complete(prompt="Once upon a time", max_tokens=60, temperature=0)
        assert text_of(answer).startswith(STORY)
        # without a chat template the messages are continued
        answer = server.chat(
            messages=[{"role": "user", "content": "Once upon a time"}], temperature=0, max_tokens=60
        )
        assert answer.json()["choices"][0]["message"]["content"].startswith(STORY)


def test_the_server_says_what_the_library_says(llm: LLM, server: Any) -> None:
    expected = llm.generate("One day", max_tokens=40, sampling=SamplingParams(temperature=0.0))
    answer = server.complete(prompt="One day", max_tokens=40, temperature=0).json()
    assert answer["choices"][0]["text"] == expected.text
    assert answer["choices"][0]["finish_reason"] == expected.finish_reason
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens


def test_the_model_is_described(llm: LLM, server: Any) -> None:
    (entry,) = server.http.get("/v1/models").json()["data"]
    is_ternary = llm.info["ternary_parameters"] > 0
    meta = entry["meta"]
    assert meta["format"] == ("gguf TQ2_0" if is_ternary else "gguf F32")
    assert (meta["bits_per_weight"] < 8) == is_ternary
    assert meta["isa"] == llm.info["isa"]


def test_metrics_tell_how_much_of_the_head_was_computed(data_dir: Path, serve: Any) -> None:
    with LLM(data_dir / FILES[0], head="screened") as llm:
        server = serve(NativeModel(llm))
        server.complete(prompt="Once upon a time", max_tokens=20, temperature=0)
        server.wait_idle()
        text = server.http.get("/metrics").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
        label = '{model_name="tiny"}'
        outputs = float(values[f"wrinklefree:head_outputs_total{label}"])
        rows = float(values[f"wrinklefree:head_rows_rescored_total{label}"])
        assert (outputs, rows) == llm.model.head_counts
        assert 20 <= outputs <= rows < outputs * llm.info["vocab_size"]


@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_is_the_same_alone_and_among_others(server: Any, temperature: float) -> None:
    asked = {"prompt": [403] * 150, "max_tokens": 30, "temperature": temperature, "seed": 7}
    alone = text_of(server.complete(**asked))
    others = [{"prompt": [i + 5] * (3 + 20 * i), "max_tokens": 40} for i in range(8)]
    with ThreadPoolExecutor(16) as pool:
        noise = [pool.submit(server.complete, **other) for other in others]
        among = [pool.submit(server.complete, **asked) for _ in range(3)]
        texts = {text_of(future.result()) for future in among}
        assert all(future.result().status_code == 200 for future in noise)
    assert texts == {alone}


def test_seeds_decide_the_answer(server: Any) -> None:
    def answer(seed: int | None) -> str:
        return text_of(server.complete(prompt="One day", max_tokens=20, seed=seed))

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1
    assert len({answer(None) for _ in range(4)}) > 1
    both = server.complete(prompt="One day", max_tokens=20, seed=1, n=2).json()["choices"]
    assert [choice["text"] for choice in both] == [answer(1), answer(2)]


def test_logprobs_are_the_models(llm: LLM, server: Any) -> None:
    ids = llm.tokenizer.encode("One day")
    fields = {"prompt": ids, "max_tokens": 8, "temperature": 0, "logprobs": 3}
    logprobs = server.complete(**fields).json()["choices"][0]["logprobs"]
    generated = llm.generate(ids, max_tokens=8, sampling=SamplingParams(temperature=0.0))
    expected = llm.logprobs([*ids, *generated.token_ids])[len(ids) - 1 :]
    assert logprobs["token_logprobs"] == pytest.approx(list(expected), abs=1e-4)
    for chosen, top in zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert max(top.values()) == pytest.approx(chosen), "greedy takes the likeliest"


def test_a_bias_bans_and_forces_tokens(llm: LLM, server: Any) -> None:
    ids = llm.tokenizer.encode("One day")
    (likeliest,) = llm.generate(ids, max_tokens=1, sampling=SamplingParams(temperature=0)).token_ids
    asked = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 0}

    def first(**fields: Any) -> list[str]:
        answer = server.complete(**asked, **fields)
        tokens: list[str] = answer.json()["choices"][0]["logprobs"]["tokens"]
        return tokens

    spelled = llm.tokenizer.token_bytes(likeliest).decode()
    assert first() == [spelled]
    assert first(logit_bias={str(likeliest): -100}) != [spelled]
    forced = llm.tokenizer.encode("z", add_special=False)[-1]
    assert first(logit_bias={str(forced): 100}) == [llm.tokenizer.token_bytes(forced).decode()]


def test_sampling_limits_of_the_api_are_limits_of_the_engine(server: Any) -> None:
    for field, values in {
        "temperature": [0, 1e-9, 2],
        "top_p": [1e-9, 1],
        "top_k": [0, 1, 2**31 - 1],
        "min_p": [0, 0.999],
        "presence_penalty": [-2, 2],
        "frequency_penalty": [-2, 2],
        "seed": [-(2**63), 2**63 - 1],
        "logprobs": [0, 5],
    }.items():
        for value in values:
            answer = server.complete(max_tokens=2, **{field: value})
            assert answer.status_code == 200, f"{field}={value}: {answer.text}"


def test_the_context_is_used_to_its_last_token(llm: LLM, server: Any) -> None:
    context = llm.info["context_length"]
    usage = server.complete(prompt=[403] * (context - 1)).json()["usage"]
    assert usage["total_tokens"] == context
    refused = server.complete(prompt=[403] * context)
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_a_megabyte_of_prompt_is_refused_quickly(server: Any) -> None:
    began = time.process_time()  # of this process, server included: other work does not count
    answer = server.complete(prompt="A" * 1_000_000)
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert time.process_time() - began < 5


@pytest.mark.parametrize("num_streams", [64, 200])
def test_many_streams_say_what_each_says_alone(server: Any, num_streams: int) -> None:
    words = ["One day", "Lily", "The dog", "Once upon a time"]

    def ask(number: int) -> tuple[str, str | None]:
        answer = server.complete(
            prompt=words[number % 4], stream=True, max_tokens=20, seed=number % 8
        )
        assert answer.status_code == 200, answer.text
        *events, last = answer.text.removesuffix("\n\n").split("\n\n")
        assert last == "data: [DONE]"
        choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
        return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]

    alone = [ask(number) for number in range(8)]
    assert len(set(alone)) == 8
    with ThreadPoolExecutor(num_streams) as pool:
        together = list(pool.map(ask, range(num_streams)))
    assert together == [alone[number % 8] for number in range(num_streams)]
    assert server.worker.num_running == server.worker.num_waiting == 0


def test_a_prompt_has_one_start_token(llm: LLM, server: Any) -> None:
    ids = server.http.post("/tokenize", json={"prompt": "One day"}).json()["tokens"]
    assert ids.count(llm.tokenizer.bos_id) == 1
    assert ids[0] == llm.tokenizer.bos_id
    assert server.complete(max_tokens=1, prompt="One day").json()["usage"]["prompt_tokens"] == len(
        ids
    )


def test_control_tokens_in_a_prompt_stay_text(llm: LLM, server: Any) -> None:
    spelled = next(iter(llm.tokenizer.special_tokens))
    plain = server.complete(prompt="ab", max_tokens=1).json()["usage"]["prompt_tokens"]
    answer = server.complete(prompt=f"ab{spelled}", max_tokens=1)
    assert answer.json()["usage"]["prompt_tokens"] > plain + 1


def penalized(llm: LLM, prompt: list[int], count: int, penalty: float) -> list[int]:
    """Greedy, as transformers has it: positive logits of what was there are divided."""
    tokens = list(prompt)
    for _ in range(count):
        logits = llm.logits(tokens)[-1]
        seen = sorted(set(tokens))
        scores = logits[seen]
        logits[seen] = np.where(scores > 0, scores / penalty, scores * penalty)
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def test_the_repetition_penalty_knows_prompt_and_answer(llm: LLM, server: Any) -> None:
    prompt = [*llm.tokenizer.encode("Once upon a time"), *[403, 407] * 20]
    plain = llm.generate(prompt, max_tokens=24, sampling=SamplingParams(temperature=0.0))
    sampling = SamplingParams(temperature=0.0, repetition_penalty=3.0)
    answer = llm.generate(prompt, max_tokens=24, sampling=sampling)
    assert list(answer.token_ids) == penalized(llm, prompt, 24, 3.0)
    assert answer.token_ids != plain.token_ids
    fields = {"prompt": prompt, "max_tokens": 24, "temperature": 0, "repetition_penalty": 3}
    for _ in range(2):  # the second one begins with the first one's keys and values
        assert text_of(server.complete(**fields)) == answer.text


def test_the_sampling_of_the_model_holds_where_the_request_says_nothing(
    data_dir: Path, serve: Any
) -> None:
    with LLM(data_dir / FILES[0]) as llm:
        greedy = llm.generate("One day", max_tokens=40, sampling=SamplingParams(temperature=0.0))
        llm.default_sampling = {"temperature": 0.0, "repetition_penalty": 1.5}
        penalized = llm.generate("One day", max_tokens=40)
        assert penalized.text != greedy.text
        server = serve(NativeModel(llm))
        (entry,) = server.http.get("/v1/models").json()["data"]
        assert entry["default_sampling"] == llm.default_sampling

        def said(**fields: Any) -> str:
            return text_of(server.complete(prompt="One day", max_tokens=40, **fields))

        assert said() == penalized.text
        assert said(repetition_penalty=1) == greedy.text
        assert said(temperature=2, seed=1) != said()
