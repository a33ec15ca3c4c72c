"""Beginnings of prompts that were computed before: found, shared, given up, and never seen in the
answers."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from wrinklefree.engine import LLM, SamplingParams
from wrinklefree.engine.prompt_cache import num_shared
from wrinklefree.serve.native import NativeModel
from wrinklefree.serve.prefix_cache import MIN_SHARED, PrefixCache


class Sizes:
    """A model whose slots are their sizes."""

    def slot_bytes(self, slot: int) -> int:
        return slot


def cache_of(max_bytes: int) -> PrefixCache:
    return PrefixCache(Sizes(), max_bytes)  # type: ignore[arg-type]


def test_num_shared_is_the_common_beginning() -> None:
    draw = random.Random(0)
    for _ in range(300):
        shared = [draw.randrange(3) for _ in range(draw.randrange(200))]
        a, b = ([*shared, *([0] * draw.randrange(3))], [*shared, *([1] * draw.randrange(70))])
        expected = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
        )
        assert num_shared(a, b) == num_shared(b, a) == expected


def test_the_longest_beginning_is_found() -> None:
    cache = cache_of(100)
    cache.keep(range(0, 20), 1)
    cache.keep([*range(0, 15), *range(50, 70)], 2)
    found = cache.find([*range(0, 15), *range(50, 60), 99])
    assert found is not None
    assert (found.slot, found.length) == (2, 25)
    assert cache.find(range(MIN_SHARED - 1)) is None
    assert cache.find([7, *range(0, 20)]) is None


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = cache_of(25)
    for first in (100, 200):
        cache.keep(range(first, first + 20), 10)
    assert cache.find(range(100, 120)) is not None  # used now
    cache.keep(range(300, 320), 10)
    assert cache.find(range(200, 220)) is None
    assert cache.find(range(100, 120)) is not None
    assert (len(cache), cache.num_bytes) == (2, 20)
    cache.keep(range(400, 420), 26)  # more than fits at all
    assert (len(cache), cache.num_bytes) == (2, 20)


def test_a_continuation_replaces_what_it_continues() -> None:
    cache = cache_of(100)
    cache.keep(range(20), 10)
    cache.keep(range(40), 20)
    assert (len(cache), cache.num_bytes) == (1, 20)
    cache.keep(range(30), 15)  # there already
    assert (len(cache), cache.num_bytes) == (1, 20)


@pytest.fixture
def model(scripted: Any) -> Any:
    """A scripted model whose slots fit, and that counts the tokens it was fed."""

    class Counting(scripted):  # type: ignore[misc]
        num_fed = 0

        def slot_bytes(self, slot: Any) -> int:
            return len(slot.tokens)

        def step(self, work: Any) -> Any:
            self.num_fed += sum(len(item.tokens) for item in work)
            return super().step(work)

    return Counting([b"a", b"b"], context_length=512)


def fed_by(model: Any, ask: Any) -> int:
    before = model.num_fed
    answer = ask()
    assert answer.status_code == 200, answer.text
    fed: int = model.num_fed - before
    return fed


def cached(answer: Any) -> int:
    tokens: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


def test_a_second_turn_computes_what_is_new(model: Any, serve: Any) -> None:
    server = serve(model)
    prompt = [65] * 100
    # Two tokens are generated and then the end token, which nothing follows.
    assert fed_by(model, lambda: server.complete(prompt=prompt)) == 100 + 2
    answer = server.complete(prompt=[*prompt, *b"more"])
    assert cached(answer) == 100
    assert fed_by(model, lambda: server.complete(prompt=prompt)) == 1 + 2  # its last token again


def test_a_beginning_of_no_use_is_forgotten(model: Any, serve: Any) -> None:
    server = serve(model)
    prompt = [65] * 100
    server.complete(prompt=prompt)
    fork, damaged = model.fork, []

    def fork_all_but_the_first(slot: Any, *arguments: Any, **options: Any) -> Any:
        damaged[:] = damaged or [slot]
        if slot is damaged[0]:
            raise RuntimeError("pages are gone")
        return fork(slot, *arguments, **options)

    model.fork = fork_all_but_the_first
    computed = server.complete(prompt=prompt)
    assert (computed.json()["choices"][0]["text"], cached(computed)) == ("ab", 0)
    assert cached(server.complete(prompt=prompt)) == 99  # of the second one


def test_choices_of_one_prompt_share_it(model: Any, serve: Any) -> None:
    server = serve(model, parallel=8)
    prompt = [66] * 300  # several chunks: the others wait for the first
    assert fed_by(model, lambda: server.complete(prompt=prompt, n=4)) == 300 + 3 + 4 * 2
    answer = server.complete(prompt=[67] * 200, n=3)
    assert cached(answer) == 0  # of the request: nothing was there before
    assert {choice["text"] for choice in answer.json()["choices"]} == {"ab"}


def test_different_prompts_do_not_wait_for_each_other(model: Any, serve: Any) -> None:
    server = serve(model, parallel=8)
    prompts = [[65 + i] * 50 for i in range(4)]
    assert fed_by(model, lambda: server.complete(prompt=prompts)) == 4 * (50 + 2)


def test_a_scored_prompt_is_computed_whole(model: Any, serve: Any) -> None:
    server = serve(model)
    asked = {"prompt": [65] * 50, "echo": True, "logprobs": 1, "max_tokens": 0}
    first = server.complete(**asked).json()["choices"]
    assert fed_by(model, lambda: server.complete(**asked)) == 50
    assert server.complete(**asked).json()["choices"] == first


def test_it_can_be_switched_off(model: Any, serve: Any) -> None:
    server = serve(model, prefix_cache_bytes=0)
    for _ in range(2):
        assert fed_by(model, lambda: server.complete(prompt=[65] * 100, n=2)) == 2 * (100 + 2)


def test_followers_go_on_when_the_first_hangs_up(scripted: Any, serve: Any) -> None:
    model = scripted([b"a"], context_length=4096, delay_s=0.02)
    server = serve(model)
    prompt = [65] * 2000
    with ThreadPoolExecutor(2) as pool:
        with server.http.stream(
            "POST", "/v1/completions", json={"prompt": prompt, "stream": True}
        ) as leader:
            follower = pool.submit(server.complete, prompt=prompt)
            leader.close()
        assert follower.result().json()["choices"][0]["text"] == "a"
    server.wait_idle()


FILES = ["stories260k_hf/stories260K-f32.gguf", "ternary_gguf_fixture/rand256-tq2_0.gguf"]


@pytest.mark.parametrize("file", FILES, ids=["stories", "ternary"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_the_same_cold_and_warm(
    data_dir: Path, serve: Any, file: str, temperature: float
) -> None:
    """A conversation of three turns, whose every prompt continues the one before."""
    with LLM(data_dir / file) as llm:
        server = serve(NativeModel(llm), parallel=4)
        prompt = llm.tokenizer.encode("Once upon a time")
        for turn in range(3):
            asked = {"max_tokens": 12, "temperature": temperature, "seed": turn}
            expected = llm.generate(
                prompt, max_tokens=12, sampling=SamplingParams(temperature=temperature, seed=turn)
            )
            answers = [server.complete(prompt=prompt, **asked) for _ in range(2)]
            for answer in answers:
                assert answer.json()["choices"][0]["text"] == expected.text
            assert cached(answers[1]) == len(prompt) - 1 or len(prompt) <= MIN_SHARED
            prompt = [*prompt, *expected.token_ids, *llm.tokenizer.encode("ab", add_special=False)]
        assert cached(server.complete(prompt=prompt, max_tokens=1)) > MIN_SHARED


def values_of(server: Any) -> dict[tuple[str, str], float]:
    answer = server.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, sample.labels.get("finished_reason", "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_metrics_count_what_happened(model: Any, serve: Any) -> None:
    server = serve(model)
    server.complete(prompt=[65] * 100)
    server.complete(prompt=[65] * 100, max_tokens=1)
    server.wait_idle()
    values = values_of(server)
    expected = {
        "num_requests_running": 0,
        "num_requests_waiting": 0,
        "prompt_tokens_total": 200,
        "generation_tokens_total": 3 + 1,
        "prefix_cache_queries_total": 200,
        "prefix_cache_hits_total": 99,
        "prefix_cache_bytes": 102,
        "time_to_first_token_seconds_count": 2,
        "e2e_request_latency_seconds_count": 2,
        "request_queue_time_seconds_count": 2,
        "time_per_output_token_seconds_count": 1,
    }
    for name, value in expected.items():
        assert values[f"wrinklefree:{name}", ""] == value, name
    assert values["wrinklefree:request_success_total", "stop"] == 1
    assert values["wrinklefree:request_success_total", "length"] == 1
    assert values["process_open_fds", ""] > 0


def test_a_key_guards_the_metrics(scripted: Any, serve: Any) -> None:
    server = serve(scripted([b"ok"]), api_keys=("secret",))
    assert server.http.get("/metrics").status_code == 401
