"""One model, measured: prefill, decode, load, memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrinklefree import _engine
from wrinklefree.errors import UsageError

_READ_BYTES = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. `prompt` and `tokens` are the lengths of a prefill and of a decode run."""

    threads: int
    prompt: int = 512
    tokens: int = 128
    rounds: int = 3
    batch: int = 1  # sequences that decode together
    kv_cache: str = "f32"
    head: str = "auto"
    layout: str = "auto"


def bench_model(path: Path, plan: Plan) -> dict[str, Any]:
    """Medians over the rounds; tokens/s, seconds, MiB and GB/s.

    `tgN` counts the tokens of all sequences. `tgN_body` decodes without the head; its bytes of
    ternary weights per second over the read bandwidth, measured before and after, are
    `body_bw_share`, where one step reads them once whatever the batch.
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
    prompt = min(plan.prompt, info["context_length"] - plan.tokens)
    if prompt < 1:
        raise UsageError(f"{plan.tokens} tokens fill the context of {info['context_length']}")
    ids = [int(i) for i in np.random.default_rng(1).integers(0, info["vocab_size"], prompt)]
    rates = [_round(model, ids, plan) for _ in range(plan.rounds + 1)][1:]  # one to warm up
    prefill, decode, body = (statistics.median(column) for column in zip(*rates, strict=True))
    read_gbps = max(before, _engine.read_gbps(plan.threads, _READ_BYTES))
    body_bytes = info["ternary_weight_bytes"]
    return {
        "model": path.name,
        "isa": info["isa"],
        "threads": info["threads"],
        "layout": info["layout"],
        "head": info["head"],
        "kv_cache": plan.kv_cache,
        "batch": plan.batch,
        f"pp{prompt}": round(prefill, 2),
        f"tg{plan.tokens}": round(decode, 2),
        f"tg{plan.tokens}_body": round(body, 2),
        "load_s": round(load_s, 3),
        "rss_mib": round(_rss_mib(), 1),
        "file_mib": round(_size(path) / 2**20, 1),
        "weights_mib": round(info["weight_bytes"] / 2**20, 1),
        "head_screen_mib": round(info["head_screen_bytes"] / 2**20, 1),
        "read_gbps": round(read_gbps, 2),
        "body_bw_share": round(body / plan.batch * body_bytes / read_gbps / 1e9, 3),
    }


def _round(model: _engine.Model, ids: list[int], plan: Plan) -> tuple[float, float, float]:
    """Tokens/s of the prefill, of decoding, and of decoding without the head, greedy."""
    item = _engine.StepItem
    samplers = [_engine.Sampler(temperature=0) for _ in range(plan.batch)]
    prompt = model.sequence(len(ids) + plan.tokens)
    start = time.perf_counter()
    first = model.step([item(prompt, ids, samplers[0])])[0].token
    prefilled = time.perf_counter()
    sequences = [model.fork(prompt, len(ids), prompt.max_tokens) for _ in samplers]
    decoded, body = (
        _decode(model, sequences, used, first, len(ids), plan.tokens)
        for used in (samplers, [None] * plan.batch)
    )
    count = plan.batch * plan.tokens
    return len(ids) / (prefilled - start), count / decoded, count / body


def _decode(
    model: _engine.Model,
    sequences: list[_engine.Sequence],
    samplers: Sequence[_engine.Sampler | None],
    first: int,
    length: int,
    tokens: int,
) -> float:
    """Seconds for `tokens` steps of all sequences, which are at `length` before and after."""
    inputs = [first] * len(sequences)
    start = time.perf_counter()
    for _ in range(tokens):
        items = [
            _engine.StepItem(sequence, [token], sampler)
            for sequence, token, sampler in zip(sequences, inputs, samplers, strict=True)
        ]
        outputs = model.step(items)
        if samplers[0] is not None:
            inputs = [output.token for output in outputs]
    took = time.perf_counter() - start
    for sequence in sequences:
        sequence.truncate(length)
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
