"""python bench/engine.py [--model FILE] [--threads 1 2] [--rounds 5]: speed of the engine.

Without a file it writes a ternary model of SmolLM2-135M's shape with random weights (linear layers
in Q4_0, which holds them exactly, the tied embedding in Q8_0). It measures the engine, the engine
with its head read whole, and llama.cpp in turns, so that a busy moment of the machine hits all.
First it checks that they run the same model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from problems import SMOLLM2
from runners import Task, engine_runner, llama_cpp_runner, medians, random_prompt, take_turns
from wrinklefree import _engine
from wrinklefree.bench.synthetic import write_model

VOCAB = 49152


def synthetic_model(directory: Path) -> Path:
    path = directory / "smollm2-135m-shape.gguf"
    write_model(
        path, SMOLLM2, layers=SMOLLM2.layers, vocab=VOCAB, linear_type="Q4_0", head_type="Q8_0"
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    usable = _engine.cpu_info()["threads"]
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the synthetic one")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, usable])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="measure the engine alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = options.model or synthetic_model(Path(directory))
        for threads in dict.fromkeys(options.threads):
            task = Task(path, threads, random_prompt(128, VOCAB), tokens=48)
            isa = _engine.cpu_info()["isa"]
            runners = {
                f"engine ({isa})": engine_runner(task),
                f"engine ({isa}), head read whole": engine_runner(task, head="stored"),
            }
            if not options.no_peer:
                runners["llama.cpp"] = llama_cpp_runner(task)
            if len({run().first_token for run in runners.values()}) > 1:  # also the warm-up
                sys.exit("the runners do not agree on the first token")
            for name, runs in take_turns(runners, options.rounds).items():
                print(json.dumps({"threads": threads, "runner": name, **medians(runs)}), flush=True)


if __name__ == "__main__":
    main()
