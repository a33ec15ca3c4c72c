"""Kernel figures of this machine: `python bench/ops.py --refcheck [--smoke]`.

Results are compared with reference.py before anything is timed. Weights of few rows are read from
memory, not from a cache; every figure is the median of rounds in which our layouts, torch's bf16
and int8 linears and the ceilings of the machine (ceilings.cpp) take turns. The last line is one
JSON object. A share of a ceiling above 1.02 means that something was measured wrongly: exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from functools import partial
from pathlib import Path

# Read when torch first allocates: else the page faults of large fresh outputs are all there is to
# see of an op that moves memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

import problems
from body import SCALE, Body
from ceilings import Ceilings
from overhead import SIZE, call_overheads_us
from products import COPIES, LAYOUTS, Product, bf16, int8, ternary
from rounds import impossible, measure
from wrinklefree import _engine, ops, reference

ROWS = (1, 8, 512)
# From here on the multiplications take so long that it does not matter where weights come from.
MANY_ROWS = 64
SHAPES = [
    (problems.SMOLLM2, "gate, up"),
    (problems.QWEN3, "gate, up"),
    (problems.LLAMA3, "o"),
    (problems.BITNET, "q"),
    (problems.BITNET, "gate, up"),
    (problems.BITNET, "down"),
]
Shares = dict[str, float]


def check(products: dict[str, Product], x: torch.Tensor, codes: torch.Tensor, name: str) -> None:
    """All layouts give the same bits, and the first and last rows those of the reference."""
    results = {layout: products[layout].calls[0](x) for layout in LAYOUTS}
    some = sorted({*range(min(4, len(x))), *range(max(0, len(x) - 4), len(x))})
    expected = reference.ternary_linear(x[some], codes, SCALE)
    for layout, result in results.items():
        if not torch.equal(result[some], expected) or not torch.equal(result, results["t2"]):
            sys.exit(f"{name}, {len(x)} rows, {layout}: ternary_linear differs from its reference")


def bench_shape(
    model: problems.Model, linear: problems.Linear, ceilings: Ceilings, options: argparse.Namespace
) -> Shares:
    """Prints a line per row count, thread count and layout; returns the shares of ceilings."""
    name = f"{model.name} {linear.name}"
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (linear.n, linear.k), generator=generator, dtype=torch.int8)
    products: dict[str, Product] = {layout: ternary(codes, SCALE, layout) for layout in LAYOUTS}
    products |= {"bf16": bf16(codes, SCALE), "int8": int8(codes, SCALE)}
    shares: Shares = {}
    for rows in ROWS:
        x = torch.randn(rows, linear.k, generator=generator)
        if options.refcheck:
            check(products, x, codes, name)
        for threads in options.threads:
            torch.set_num_threads(threads)
            title = f"{name:29} {linear.n:5} x {linear.k:<5} {rows:4} rows {threads} thr"
            found = time_shape(
                products, x, codes.numel(), ceilings, threads, title, options.repeats
            )
            shares |= {f"{title}, {key}": share for key, share in found.items()}
    return shares


def time_shape(
    products: dict[str, Product],
    x: torch.Tensor,
    weights: int,
    ceilings: Ceilings,
    threads: int,
    title: str,
    repeats: int,
) -> Shares:
    is_cold = len(x) < MANY_ROWS
    calls = COPIES if is_cold else 1
    rounds = measure(
        {key: partial(product.run, x, calls) for key, product in products.items()},
        repeats,
        {
            "read": lambda: ceilings.read_gbps(threads) * 1e9,
            "multiply": lambda: ceilings.multiply_gmacs(threads) * 1e9,
        },
    )
    seconds = {key: rounds.median_s(key) / calls for key in products}
    shares: Shares = {}
    for layout in LAYOUTS:
        size, macs, s = products[layout].copy_bytes, weights * len(x), seconds[layout]
        bandwidth = rounds.share(layout, size * calls, "read")
        line = f"{title} {layout:3} {s * 1e6:9.1f} us {size / s / 1e9:6.2f} GB/s ({bandwidth:.2f})"
        line += f" {macs / s / 1e9:7.2f} GMAC/s"
        if is_cold:
            shares[f"{layout}, share of bandwidth"] = bandwidth
        if ceilings.multiply_peak:
            multiply = rounds.share_of_best(layout, macs * calls, "multiply")
            line += f" ({multiply:.2f})"
            # Table lookups multiply nothing: that peak does not bound them.
            if layout != "lut":
                shares[f"{layout}, share of multiply peak"] = multiply
        for baseline in ("bf16", "int8"):
            line += f"  x{seconds[baseline] / s:.2f} {baseline}"
        print(line, flush=True)
    return shares


def bench_body(
    body: Body, ceilings: Ceilings, threads: int, options: argparse.Namespace
) -> dict[str, float]:
    """Decode over all layers, each layout in turn, then a block of 512 tokens over one layer."""
    layers = body.model.layers
    torch.set_num_threads(threads)
    decode = measure(
        {layout: partial(body.run, layout, 1, layers) for layout in LAYOUTS},
        options.decode_repeats,
        {"read": lambda: ceilings.read_gbps(threads) * 1e9},
        budget_s=20,
    )
    figures: dict[str, float] = {}
    for layout in LAYOUTS:
        share = decode.share(layout, body.weight_bytes(layout), "read")
        suffix = "" if layout == "t2" else f"_{layout}"
        figures[f"decode_bw_share{suffix}_{threads}t"] = share
        figures[f"decode_tok_per_s_{layout}_{threads}t"] = 1 / decode.median_s(layout)
    for layout in ("t1", "lut"):
        ratio = decode.median_s("t2") / decode.median_s(layout)
        figures[f"{layout}_over_t2_{threads}t"] = ratio
    rows = 512
    gemm = measure(
        {layout: partial(body.run, layout, rows, 1) for layout in LAYOUTS[:2]},
        options.repeats,
        {"multiply": lambda: ceilings.multiply_gmacs(threads) * 1e9},
        budget_s=10,
    )
    macs = rows * body.model.layer_weights
    figures[f"gemm_gmac_per_s_{threads}t"] = macs / gemm.median_s("t2") / 1e9
    if ceilings.multiply_peak:
        figures[f"gemm_vnni_share_{threads}t"] = gemm.share_of_best("t2", macs, "multiply")
        figures[f"gemm_vnni_share_t1_{threads}t"] = gemm.share_of_best("t1", macs, "multiply")
    return figures


def bench_fake_quant(
    ceilings: Ceilings, threads: int, options: argparse.Namespace
) -> dict[str, float]:
    """Bytes that must move over the copy bandwidth: the ternary op reads its input twice."""
    torch.set_num_threads(threads)
    x = torch.randn(256 if options.smoke else 8192, 2560)
    moved = {"fake_quant_act": 2, "fake_quant_ternary": 3, "torch_clone": 2}
    rounds = measure(
        {
            "fake_quant_act": lambda: ops.fake_quant_act(x, 0.5),
            "fake_quant_ternary": lambda: ops.fake_quant_ternary(x, 0.5),
            "torch_clone": lambda: x.clone(),
        },
        options.repeats,
        {"copy": lambda: ceilings.copy_gbps(threads) * 1e9},
    )
    return {
        f"{name}_bw_share_{threads}t": rounds.share(name, passes * x.nbytes, "copy")
        for name, passes in moved.items()
    }


def bench_overhead(options: argparse.Namespace) -> dict[str, float]:
    overheads = call_overheads_us(calls=200 if options.smoke else 2000)
    for name, microseconds in overheads.items():
        print(f"{name:29} {SIZE:5} x {SIZE:<5}    1 rows 1 thr     {microseconds:9.1f} us a call")
    figures = {f"call_overhead_us_{name}": value for name, value in overheads.items()}
    # The higher of our two.
    ours = max(overheads["ternary_linear"], overheads["quantize_act_int8"])
    return {"call_overhead_us": ours, **figures}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refcheck", action="store_true", help="compare with reference.py first")
    parser.add_argument(
        "--smoke", action="store_true", help="small shapes and few repeats; shares are not checked"
    )
    usable = _engine.cpu_info()["threads"]
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, usable)}))
    options = parser.parse_args()
    options.repeats = 2 if options.smoke else 3
    options.decode_repeats = 2 if options.smoke else 9
    isa = _engine.cpu_info()["isa"]
    ceilings = Ceilings(isa, options.threads, mib=64 if options.smoke else 512)
    print(f"{cpu_name()}, isa {isa}, multiply peak {ceilings.multiply_peak}")
    for threads, gbps in ceilings.facts.items():
        for loop, value in gbps.items():
            print(f"{threads} threads: {loop}: {value:.1f} GB/s")

    figures: dict[str, float] = {}
    shares: Shares = {}
    with torch.inference_mode():
        for model, name in SHAPES[:2] if options.smoke else SHAPES:
            linear = next(linear for linear in model.linears if linear.name == name)
            shares |= bench_shape(model, linear, ceilings, options)
        model = problems.SMOLLM2._replace(layers=3) if options.smoke else problems.BITNET
        body = Body(model, LAYOUTS)
        for threads in options.threads:
            figures |= bench_body(body, ceilings, threads, options)
            figures |= bench_fake_quant(ceilings, threads, options)
            best = ceilings.best[threads]
            figures |= {f"{name}_{threads}t": value for name, value in best.items()}
        figures |= bench_overhead(options)
    shares |= {key: value for key, value in figures.items() if "_share" in key}
    figures["fake_quant_bw_share"] = min(
        value for key, value in figures.items() if key.startswith("fake_quant")
    )
    too_high = impossible(shares)
    facts = {
        "cpu": cpu_name(),
        "isa": isa,
        "multiply_peak": ceilings.multiply_peak,
        "body": f"{body.model.layers} layers of {body.model.name}",
        "smoke": options.smoke,
    }
    for key, value in too_high.items():
        print(f"more than the machine can do: {key}: {value:.3f}", file=sys.stderr)
    rounded = {key: float(f"{value:.4g}") for key, value in figures.items()}
    print(json.dumps({**facts, **rounded}), flush=True)
    if too_high and not options.smoke:
        sys.exit(1)


if __name__ == "__main__":
    main()
