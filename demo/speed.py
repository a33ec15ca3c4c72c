"""Decode speed of teacher and student, measured in turns so that a busy moment hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

PROMPT = "The history of science is"
TOKENS = 32
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Runner:
    """One way to decode: `decode()` generates TOKENS tokens greedily and returns tokens/s."""

    name: str
    decode: Callable[[], float]


def measure(runners: list[Runner]) -> dict[str, float]:
    """Median tokens/s of each runner over ROUNDS interleaved rounds; the warm-up does not count."""
    for runner in runners:
        runner.decode()
    speeds: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for _ in track(range(ROUNDS), description="decode speed"):
        for runner in runners:
            speeds[runner.name].append(runner.decode())
    return {name: statistics.median(values) for name, values in speeds.items()}


def torch_runner(name: str, directory: Path, dtype_name: str) -> Runner:
    """The float teacher in PyTorch, with its key-value cache."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype_name))
    prompt = tokenizer(PROMPT, return_tensors="pt").input_ids

    def generate(tokens: int) -> int:
        output = model.generate(prompt, do_sample=False, max_new_tokens=tokens)
        return int(output.shape[1] - prompt.shape[1])

    return Runner(name, lambda: _decode_speed(generate))


def llama_cpp_runner(name: str, gguf: Path, threads: int) -> Runner:
    """The same GGUF file in mainline llama.cpp; its own count of decode time, sampling left out."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.verbosity = -1
    server = xllamacpp.Server(params)
    request = {"prompt": PROMPT, "n_predict": TOKENS, "temperature": 0, "cache_prompt": False}

    def decode() -> float:
        answer = server.handle_completions(request)
        return float(answer["timings"]["predicted_per_second"])

    return Runner(name, decode)


def engine_runner(name: str, model: Path, threads: int) -> Runner:
    """The student in our engine."""
    from wrinklefree.engine import LLM, SamplingParams

    llm = LLM(model, threads=threads, context=512)
    greedy = SamplingParams(temperature=0.0)
    prompt = llm.tokenizer.encode(PROMPT)

    def generate(tokens: int) -> int:
        return len(llm.generate(prompt, max_tokens=tokens, sampling=greedy).token_ids)

    return Runner(name, lambda: _decode_speed(generate))


def _decode_speed(generate: Callable[[int], int]) -> float:
    """Tokens/s of decoding alone: two calls that differ only in decoded tokens."""
    start = time.perf_counter()
    generate(1)
    middle = time.perf_counter()
    tokens = generate(TOKENS + 1) - 1
    return tokens / max(time.perf_counter() - middle - (middle - start), 1e-9)
