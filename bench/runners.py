"""A prefill and a greedy decode on the engine, on llama.cpp, and on any llama-bench program."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree import _engine


@dataclass(frozen=True, slots=True)
class Run:
    prefill_tok_per_s: float
    decode_tok_per_s: float
    first_token: int | None  # None from a program that does not say


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt to prefill, and tokens to decode behind the first `depth` of it (0: behind one)."""

    path: Path
    threads: int
    prompt: list[int]
    tokens: int
    depth: int = 0

    @property
    def context(self) -> list[int]:
        return self.prompt[: max(self.depth, 1)]


Runner = Callable[[], Run]


def random_prompt(length: int, vocab: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(1).integers(300, vocab, length)]


def engine_runner(task: Task, head: str = "auto") -> Runner:
    model = _engine.Model(str(task.path), threads=task.threads, head=head)
    step, item, prompt = model.step, _engine.StepItem, task.prompt

    def run() -> Run:
        sampler = _engine.Sampler(temperature=0)
        start = time.perf_counter()
        first = step([item(model.sequence(len(prompt)), prompt, sampler)])[0].token
        prefill_s = time.perf_counter() - start
        sequence = model.sequence(len(task.context) + task.tokens)
        token = step([item(sequence, task.context, sampler)])[0].token
        start = time.perf_counter()
        for _ in range(task.tokens):
            token = step([item(sequence, [token], sampler)])[0].token
        decode_s = time.perf_counter() - start
        return Run(len(prompt) / prefill_s, task.tokens / decode_s, first)

    return run


def llama_cpp_runner(task: Task) -> Runner:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(task.path)
    parameters.n_ctx = (len(task.prompt) + task.tokens + 255) // 256 * 256
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = task.threads
    parameters.cpuparams_batch.n_threads = task.threads
    parameters.warmup = False
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    fixed = {"temperature": 0, "cache_prompt": False, "ignore_eos": True}

    def ask(prompt: list[int], **request: int) -> Any:
        answer: Any = server.handle_completions({**fixed, "prompt": prompt, **request})
        return json.loads(answer) if isinstance(answer, str) else answer

    # Asked once: reporting probabilities would slow down the timed runs.
    first = ask(task.prompt, n_predict=1, n_probs=1)["choices"][0]["logprobs"]["content"][0]["id"]

    def run() -> Run:
        prefill = ask(task.prompt, n_predict=1)["timings"]
        decode = ask(task.context, n_predict=task.tokens)["timings"]
        return Run(prefill["prompt_per_second"], decode["predicted_per_second"], first)

    return run


def llama_bench_runner(program: Path, task: Task, model: Path | None = None) -> Runner:
    """A llama-bench of llama.cpp or a fork: loads, warms up and runs once. It decodes from an empty
    context, whatever task.depth is. `model`: a file of its own with the same shape, in a type that
    only this program has.
    """
    options = {
        "-m": model or task.path,
        "-p": len(task.prompt),
        "-n": task.tokens,
        "-t": task.threads,
        "-r": 1,
        "-o": "json",
    }
    command = [str(program), *(str(part) for option in options.items() for part in option)]

    def run() -> Run:
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{program} exited with {result.returncode}: {last}")
        # Some forks print lines of their own around the list.
        text = result.stdout
        try:
            tests = json.loads(text[text.index("[\n") : text.rindex("]") + 1])
        except ValueError:
            raise RuntimeError(f"{program} printed no JSON list: {text[:200]!r}") from None
        prefill = next(test["avg_ts"] for test in tests if test["n_gen"] == 0)
        decode = next(test["avg_ts"] for test in tests if test["n_prompt"] == 0)
        return Run(prefill, decode, None)

    return run


def take_turns(runners: dict[str, Runner], rounds: int) -> dict[str, list[Run]]:
    """`rounds` runs of each, one after the other, so that a busy moment hits all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            runs[name].append(run())
    return runs


def medians(runs: list[Run]) -> dict[str, object]:
    decode = sorted(run.decode_tok_per_s for run in runs)
    return {
        "prefill_tok_per_s": round(statistics.median(run.prefill_tok_per_s for run in runs), 1),
        "decode_tok_per_s": round(statistics.median(decode), 1),
        "decode_rounds": [round(value, 1) for value in decode],
    }


def ratios(ours: list[Run], theirs: list[Run]) -> dict[str, object]:
    """How many times faster we are: medians over rounds, each paired in time."""
    pairs = list(zip(ours, theirs, strict=True))
    prefill = [a.prefill_tok_per_s / b.prefill_tok_per_s for a, b in pairs]
    decode = [a.decode_tok_per_s / b.decode_tok_per_s for a, b in pairs]
    return {
        "engine_prefill_ratio": round(statistics.median(prefill), 3),
        "engine_decode_ratio": round(statistics.median(decode), 3),
    }
