"""`LLM`: generation, stops, scores, and what wrong use gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wrinklefree import LLM
from wrinklefree.engine import SamplingParams
from wrinklefree.errors import FormatError, UsageError, WrinklefreeError

GREEDY = SamplingParams(temperature=0, logprobs=0)
OPENING = "Once upon a time"
STORY = ", there was a little girl named Lily. She loved to play outside in the park."


@pytest.fixture(scope="module")
def llm(stories_dir: Path) -> Iterator[LLM]:
    with LLM(stories_dir) as llm:
        yield llm


def test_greedy_text_is_llama2cs_documented_story(llm: LLM) -> None:
    completion = llm.generate(OPENING, max_tokens=60, sampling=GREEDY)
    assert completion.text.startswith(STORY)
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == len(completion.logprobs) == 60
    assert completion.prompt_tokens == len(llm.tokenizer.encode(OPENING))
    assert completion.timings.decode_s > 0


def test_streamed_pieces_join_to_the_text(llm: LLM) -> None:
    arguments = {"max_tokens": 40, "sampling": SamplingParams(seed=3), "stop": ["park", "the"]}
    text = llm.generate(OPENING, **arguments).text
    assert "".join(llm.stream(OPENING, **arguments)) == text


def test_a_seed_of_minus_one_is_a_random_one(llm: LLM) -> None:
    sampling = SamplingParams(temperature=2.0, seed=-1)
    texts = {llm.generate(OPENING, max_tokens=20, sampling=sampling).text for _ in range(3)}
    assert len(texts) > 1


def test_stop_string_ends_before_it(llm: LLM) -> None:
    completion = llm.generate(OPENING, max_tokens=60, sampling=GREEDY, stop=["girl named"])
    assert completion.text == ", there was a little "
    assert completion.finish_reason == "stop"


def test_end_token_ends_the_text(llm: LLM) -> None:
    bias = ((2, 1000.0),)
    completion = llm.generate(
        OPENING, max_tokens=9, sampling=SamplingParams(temperature=0, logit_bias=bias)
    )
    assert completion.finish_reason == "stop"
    assert completion.token_ids == ()
    assert completion.text == ""


def test_generated_logprobs_are_those_of_scoring(llm: LLM) -> None:
    completion = llm.generate(OPENING, max_tokens=12, sampling=GREEDY)
    prompt = llm.tokenizer.encode(OPENING)
    scored = llm.logprobs([*prompt, *completion.token_ids])[len(prompt) - 1 :]
    np.testing.assert_allclose(scored, completion.logprobs, atol=1e-5)
    (score,) = llm.score(prompt, [completion.token_ids])
    assert score.logprob == pytest.approx(sum(completion.logprobs), abs=1e-4)
    assert score.num_tokens == 12
    assert score.is_greedy


def test_scores_share_the_prompt_but_not_each_other(llm: LLM) -> None:
    prompt = llm.tokenizer.encode(OPENING)
    continuations = [[403, 407], [5], [], [261, 378, 9], [6], [403, 9]]
    together = llm.score(prompt, continuations)
    assert together == [llm.score(prompt, [continuation])[0] for continuation in continuations]
    assert not together[1].is_greedy
    assert together[2].logprob == 0.0


def test_logprobs_are_normalised_logits(llm: LLM) -> None:
    ids = llm.tokenizer.encode(OPENING + STORY)
    logits = llm.logits(ids).astype(np.float64)
    assert logits.shape == (len(ids), llm.info["vocab_size"])
    normalised = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = normalised[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(llm.logprobs(ids), expected, atol=1e-5)


def test_context_edges(stories_dir: Path) -> None:
    llm = LLM(stories_dir, context=8)
    full = llm.generate([1] * 7, max_tokens=5, sampling=GREEDY)  # one token of room
    assert len(full.token_ids) == 1
    assert full.finish_reason == "length"
    with pytest.raises(UsageError, match="8 tokens and the context holds 8"):
        llm.generate([1] * 8)
    with pytest.raises(UsageError, match="context"):
        llm.logprobs([1] * 9)
    with pytest.raises(WrinklefreeError, match="context must be 1 to 512"):
        LLM(stories_dir, context=513)


@pytest.mark.parametrize(
    ("sampling", "problem"),
    [
        (SamplingParams(temperature=-1), "temperature"),
        (SamplingParams(temperature=float("nan")), "temperature"),
        (SamplingParams(top_p=0), "top_p"),
        (SamplingParams(top_p=float("nan")), "top_p"),
        (SamplingParams(top_k=-1), "top_k"),
        (SamplingParams(top_k=99999999999999999999), "top_k"),
        (SamplingParams(seed=-2), "seed must be 0 to 2.64-1, or -1 for a random one"),
        (SamplingParams(seed=2**64), "seed"),
        (SamplingParams(logprobs=-1), "logprobs"),
        (SamplingParams(logprobs=2**40), "logprobs"),
        (SamplingParams(logit_bias=((2**31, 1.0),)), "token 2147483648"),
        (SamplingParams(min_p=1), "min_p"),
        (SamplingParams(repetition_penalty=0), "repetition_penalty"),
        (SamplingParams(presence_penalty=float("inf")), "presence_penalty"),
        (SamplingParams(logit_bias=((1, float("nan")),)), "bias"),
        (SamplingParams(logit_bias=((512, 1.0),)), "token 512"),
    ],
)
def test_sampling_values_are_checked(llm: LLM, sampling: SamplingParams, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        llm.generate(OPENING, max_tokens=1, sampling=sampling)


def test_empty_prompt_starts_from_bos(llm: LLM) -> None:
    assert llm.generate([], max_tokens=1, sampling=GREEDY).prompt_tokens == 1


def test_tokens_outside_the_vocabulary_are_refused(llm: LLM) -> None:
    for token in (-1, 512):
        with pytest.raises(UsageError, match="not in the vocabulary"):
            llm.generate([1, token], max_tokens=1)


def test_missing_and_foreign_paths_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model at"):
        LLM(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("these are not the bytes of a model")
    with pytest.raises(FormatError, match="not a GGUF file"):
        LLM(tmp_path / "notes.txt")
    with pytest.raises(FormatError, match=r"config\.json"):
        LLM(tmp_path)
