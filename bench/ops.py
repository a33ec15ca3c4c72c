"""Kernel figures of this machine: `python bench/ops.py --refcheck [--smoke] [--json]`.

Every result is compared with reference.py before it is timed. Medians over interleaved repeats;
the baseline is torch's own float32 matmul of the same shape on the same threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from wrinklefree import _engine, ops, reference

# (model, N, K) of real linear layers.
SHAPES = [
    ("SmolLM2-135M gate", 1536, 576),
    ("SmolLM2-135M down", 576, 1536),
    ("Qwen3-0.6B gate", 3072, 1024),
    ("BitNet-2B-4T gate", 6912, 2560),
    ("BitNet-2B-4T down", 2560, 6912),
]


def interleaved_medians(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each run, measured in turns after one warm-up."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for run, seconds in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if turn > 0:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def measure(
    name: str, n: int, k: int, rows: int, *, repeats: int, refcheck: bool
) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (n, k), generator=generator, dtype=torch.int8)
    x = torch.randn(rows, k, generator=generator)
    scale = torch.tensor(0.02)
    packed = ops.pack_ternary(codes, scale, "t2")
    dense = codes.float() * scale
    if refcheck:
        expected = reference.ternary_linear(x, codes, scale)
        if not torch.equal(ops.ternary_linear(x, packed, scale, n), expected):
            raise SystemExit(f"{name}: ternary_linear differs from its reference")
    ours, theirs = interleaved_medians(
        [lambda: ops.ternary_linear(x, packed, scale, n), lambda: x @ dense.T], repeats
    )
    return {
        "shape": name,
        "rows": rows,
        "ternary_us": round(ours * 1e6, 1),
        "gmac_per_s": round(n * k * rows / ours / 1e9, 2),
        "weight_gb_per_s": round(packed.numel() / ours / 1e9, 2),
        "ratio_to_torch_f32": round(theirs / ours, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refcheck", action="store_true", help="compare with reference.py first")
    parser.add_argument("--smoke", action="store_true", help="two small shapes, few repeats")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    shapes = SHAPES[:2] if options.smoke else SHAPES
    repeats = 3 if options.smoke else 15
    results = [
        measure(name, n, k, rows, repeats=repeats, refcheck=options.refcheck)
        for name, n, k in shapes
        for rows in (1, 64)
    ]
    facts = {"isa": _engine.cpu_info()["isa"], "threads": torch.get_num_threads()}
    if options.json:
        print(json.dumps({**facts, "results": results}))
        return
    print(f"isa {facts['isa']}, {facts['threads']} threads")
    for result in results:
        print("  ".join(f"{key} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
