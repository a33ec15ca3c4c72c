"""One model, measured: prefill, decode, load, memory; where a step's time goes; its roofline."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wrinklefree import _engine
from wrinklefree.bench import roofline
from wrinklefree.bench.traffic import prefill_bytes, step_bytes
from wrinklefree.errors import UsageError

_READ_BYTES = 512 << 20
_ROOFLINE_BATCH = 16
PHASES = ("matmul", "attention", "head", "norm_quantize", "barrier", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    `prompt` and `tokens` are the lengths of a prefill and of a decode run, which begins behind
    `depth` tokens.
    """

    threads: int
    prompt: int = 512
    tokens: int = 128
    depth: int = 0
    rounds: int = 3
    batch: int = 1  # sequences that decode together
    kv_cache: str = "f32"
    head: str = "auto"
    layout: str = "auto"
    profile: bool = False
    roofline: bool = False


class Rates(NamedTuple):
    """Tokens/s of the prefill, of decoding all sequences, and of decoding without the head."""

    prefill: float
    decode: float
    body: float


def bench_model(path: Path, plan: Plan) -> dict[str, Any]:
    """Medians over the rounds; tokens/s, seconds, MiB and GB/s.

    `tgN` counts the tokens of all sequences. `tgN_body` decodes without the head; its bytes of
    weights per second over the read bandwidth, measured before and after, are `body_bw_share`,
    where one step reads them once whatever the batch. `bytes_per_token` is what a step in the
    middle of decoding reads, for each of its tokens: weights, head, keys and values; `bw_share` is
    their rate over the bandwidth.

    `profile` has the shares of a step's time, from a round of its own: csrc/engine/step_profile.h
    says what belongs to which phase. `roofline` is what roofline.draw takes.
    """
    before = _engine.read_gbps(plan.threads, _READ_BYTES)
    start = time.perf_counter()
    model = _engine.Model(
        str(path),
        threads=plan.threads,
        kv_cache=plan.kv_cache,
        head=plan.head,
        layout=plan.layout,
    )
    load_s = time.perf_counter() - start
    info = model.info
    context = info["context_length"]
    prompt = min(plan.prompt, context)
    if plan.depth + plan.tokens > context:
        raise UsageError(
            f"{plan.depth} + {plan.tokens} tokens do not fit the context of {context}: "
            "lower --depth or --tokens"
        )
    if plan.roofline and not info["ternary_parameters"]:
        raise UsageError(f"{path} has no ternary weights: its multiply-adds have no roofline here")
    rates = _rates(model, plan, prompt, plan.batch)
    read_gbps = max(before, _engine.read_gbps(plan.threads, _READ_BYTES))
    traffic = _Traffic(model, plan, prompt)
    bytes_per_token = traffic.decode(plan.batch) / plan.batch
    body_gbps = rates.body / plan.batch * info["layer_weight_bytes"] / 1e9
    figures = {
        "model": path.name,
        "isa": info["isa"],
        "threads": info["threads"],
        "layout": info["layout"],
        "head": info["head"],
        "kv_cache": plan.kv_cache,
        "batch": plan.batch,
        "depth": plan.depth,
        f"pp{prompt}": round(rates.prefill, 2),
        f"tg{plan.tokens}": round(rates.decode, 2),
        f"tg{plan.tokens}_body": round(rates.body, 2),
        "load_s": round(load_s, 3),
        "rss_mib": round(_rss_mib(), 1),
        "file_mib": round(_size(path) / 2**20, 1),
        "weights_mib": round(info["weight_bytes"] / 2**20, 1),
        "head_screen_mib": round(info["head_screen_bytes"] / 2**20, 1),
        "read_gbps": round(read_gbps, 2),
        "bytes_per_token": round(bytes_per_token),
        "bw_share": round(rates.decode * bytes_per_token / read_gbps / 1e9, 3),
        "body_bw_share": round(body_gbps / read_gbps, 3),
    }
    if plan.profile:
        figures["profile"] = _profile(model, plan, prompt)
    if plan.roofline:
        figures["roofline"] = _roofline(model, plan, prompt, rates, traffic, read_gbps)
    return figures


class _Traffic:
    """Bytes per step of the runs measured here."""

    def __init__(self, model: _engine.Model, plan: Plan, prompt: int) -> None:
        self.info = model.info
        self._prompt = prompt
        self._middle = plan.depth + (plan.tokens + 1) / 2  # a step reads its own token's too
        rows, rescored = model.head_counts
        self._rescored = rescored / max(rows, 1)

    def decode(self, batch: int, has_head: bool = True) -> float:
        return step_bytes(
            self.info,
            rows=batch,
            positions=batch * self._middle,
            outputs=batch if has_head else 0,
            rescored=self._rescored,
        )

    def prefill(self) -> float:
        return prefill_bytes(self.info, self._prompt)


def _roofline(
    model: _engine.Model,
    plan: Plan,
    prompt: int,
    rates: Rates,
    traffic: _Traffic,
    read_gbps: float,
) -> dict[str, Any]:
    """Decode of one sequence and of several, and prefill; what `rates` has not is measured."""
    several = plan.batch if plan.batch > 1 else _ROOFLINE_BATCH
    by_batch = {plan.batch: rates}
    for batch in {1, several} - {plan.batch}:
        by_batch[batch] = _rates(model, plan, prompt, batch)
    alone, together = by_batch[1], by_batch[several]
    macs = traffic.info["ternary_parameters"]
    instruction, peak = _engine.multiply_peak(traffic.info["isa"], plan.threads)
    return {
        "read_gbps": round(read_gbps, 2),
        "multiply_gmacs": round(peak, 2),
        "multiply_instruction": instruction,
        "points": [
            roofline.point(name, tokens_per_s=rate, macs=macs, bytes_per_token=bytes_per_token)
            for name, rate, bytes_per_token in (
                ("decode", alone.decode, traffic.decode(1)),
                ("decode without the head", alone.body, traffic.decode(1, has_head=False)),
                (f"decode, batch of {several}", together.decode, traffic.decode(several) / several),
                (f"prefill of {prompt}", rates.prefill, traffic.prefill() / prompt),
            )
        ],
    }


def _rates(model: _engine.Model, plan: Plan, prompt: int, batch: int) -> Rates:
    """Medians of the rounds, behind one to warm up."""
    runs = _Runs(model, plan, prompt, batch)
    rounds = [
        Rates(
            prompt / runs.prefill(), *(batch * plan.tokens / runs.decode(h) for h in (True, False))
        )
        for _ in range(plan.rounds + 1)
    ]
    return Rates(*(statistics.median(column) for column in zip(*rounds[1:], strict=True)))


def _profile(model: _engine.Model, plan: Plan, prompt: int) -> dict[str, dict[str, float]]:
    """Shares of the time of steps by phase, of decoding `plan.batch` sequences and of a prefill."""
    runs = _Runs(model, plan, prompt, plan.batch)
    shares = {}
    model.profile(True)
    for name, run in (("decode", runs.decode), ("prefill", runs.prefill)):
        run()
        times = model.take_profile()
        shares[name] = {phase: round(times[phase] / times["total"], 4) for phase in PHASES}
    model.profile(False)
    return shares


class _Runs:
    """What is timed, greedy, on random tokens."""

    def __init__(self, model: _engine.Model, plan: Plan, prompt: int, batch: int) -> None:
        self._model = model
        self._plan = plan
        random = np.random.default_rng(1)
        size = max(prompt, plan.depth)
        self._ids = [int(i) for i in random.integers(0, model.info["vocab_size"], size)]
        self._prompt = self._ids[:prompt]
        begun = model.sequence(plan.depth + plan.tokens)
        if plan.depth:
            model.step([_engine.StepItem(begun, self._ids[: plan.depth], None)])
        self._sequences = [model.fork(begun, plan.depth, begun.max_tokens) for _ in range(batch)]

    def prefill(self) -> float:
        """Seconds until the first token behind the prompt."""
        sequence = self._model.sequence(len(self._prompt))
        start = time.perf_counter()
        self._model.step([_engine.StepItem(sequence, self._prompt, _engine.Sampler(temperature=0))])
        return time.perf_counter() - start

    def decode(self, has_head: bool = True) -> float:
        """Seconds for `plan.tokens` steps of all sequences, which forget them afterwards."""
        samplers = [_engine.Sampler(temperature=0) if has_head else None for _ in self._sequences]
        inputs = self._ids[:1] * len(self._sequences)
        start = time.perf_counter()
        for _ in range(self._plan.tokens):
            items = [
                _engine.StepItem(sequence, [token], sampler)
                for sequence, token, sampler in zip(self._sequences, inputs, samplers, strict=True)
            ]
            outputs = self._model.step(items)
            if has_head:
                inputs = [output.token for output in outputs]
        took = time.perf_counter() - start
        for sequence in self._sequences:
            sequence.truncate(self._plan.depth)
        return took


def _size(path: Path) -> int:
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _rss_mib() -> float:
    """Memory of this process now; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0.0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
