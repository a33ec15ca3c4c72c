"""python bench/peers.py [--layers 6] [--llama-bench PROGRAM[=FILE] ...]: the engine and its peers.

Writes a model with the layers of BitNet-b1.58-2B-4T, random ternary weights and 512 tokens (the
body without its head) in TQ2_0 and in TQ1_0, and measures prefill and decode of the engine, of
llama.cpp and of every llama-bench program given (ik_llama.cpp, bitnet.cpp) in turns on that file,
or, for a program with a type of its own, on a FILE of the same layers.
`--layers 30` is the whole body: 0.6 GB on disk, and five times as long. `--head F16` is the whole
model, with its vocabulary and a tied head of that type. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from problems import BITNET, SMOLLM2
from runners import (
    Runner,
    Task,
    engine_runner,
    llama_bench_runner,
    llama_cpp_runner,
    medians,
    random_prompt,
    ratios,
    take_turns,
)
from wrinklefree import _engine
from wrinklefree.bench.synthetic import write_model

BODY_VOCAB = 512
SHAPES = {"2b-4t": BITNET, "smollm2-135m": SMOLLM2}
TYPES = ["TQ2_0", "TQ1_0", "Q4_0"]
Result = dict[str, object]


def make_runners(task: Task, programs: list[str]) -> dict[str, Runner]:
    """Those that can run the file, each after one warm-up; all must see the same model."""
    runners = {"engine": engine_runner(task), "llama.cpp": llama_cpp_runner(task)}
    first = {name: run().first_token for name, run in runners.items()}
    if len(set(first.values())) > 1:
        sys.exit(f"the first token differs: {first}")
    for given in programs:
        program, _, file = given.partition("=")
        runner = llama_bench_runner(Path(program), task, Path(file) if file else None)
        try:
            runner()
        except (OSError, RuntimeError) as problem:
            print(f"left out: {problem}", file=sys.stderr)
        else:
            runners[given] = runner
    return runners


def bench_file(path: Path, linear_type: str, options: argparse.Namespace) -> list[Result]:
    results: list[Result] = []
    for threads in options.threads:
        prompt = random_prompt(options.prompt, BODY_VOCAB)
        task = Task(path, threads, prompt, options.tokens, options.depth)
        turns = take_turns(make_runners(task, options.llama_bench), options.rounds)
        for name, runs in turns.items():
            found = medians(runs) | ratios(turns["engine"], runs)
            results.append({"type": linear_type, "threads": threads, "runner": name, **found})
            print(
                f"{linear_type:5} {threads:7}"
                f" {found['prefill_tok_per_s']:13} {found['engine_prefill_ratio']:6}"
                f" {found['decode_tok_per_s']:12} {found['engine_decode_ratio']:6}  {name}",
                flush=True,
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    usable = _engine.cpu_info()["threads"]
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, usable)}))
    parser.add_argument("--shape", choices=list(SHAPES), default="2b-4t")
    parser.add_argument("--layers", type=int, default=6, help="of the 30 that both shapes have")
    parser.add_argument("--head", choices=["F16", "Q8_0", "Q6_K"], help="the whole model")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to decode")
    parser.add_argument("--depth", type=int, default=0, help="tokens of the prompt before them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES[:2])
    parser.add_argument("--llama-bench", nargs="+", default=[], metavar="PROGRAM[=FILE]")
    options = parser.parse_args()
    if options.llama_bench and options.depth:
        parser.error("llama-bench decodes from an empty context: no --depth beside it")
    shape = SHAPES[options.shape]
    layers = shape.layers if options.head else options.layers
    results: list[Result] = []
    print("tokens per second; ours / is how many times faster the engine is")
    print("type  threads       prefill ours /       decode ours /  runner")
    for linear_type in options.types:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "model.gguf"
            write_model(
                path,
                shape,
                layers=layers,
                vocab=shape.vocab if options.head else BODY_VOCAB,
                linear_type=linear_type,
                head_type=options.head or "F16",
            )
            results += bench_file(path, linear_type, options)
    facts = {
        "isa": _engine.cpu_info()["isa"],
        "model": shape.name,
        "layers": layers,
        "head": options.head,
        "prompt": options.prompt,
        "tokens": options.tokens,
        "depth": options.depth,
    }
    print(json.dumps({**facts, "results": results}))


if __name__ == "__main__":
    main()
