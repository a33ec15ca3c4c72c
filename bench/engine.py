"""python bench/engine.py [--threads 1 2] [--rounds 5]: decode and prefill speed of the engine.

Writes a ternary model of SmolLM2-135M's shape with random weights (linear layers in Q4_0, which
holds them exactly, the tied embedding in Q8_0) and measures engine and llama.cpp in turns on that
file, so that a busy moment of the machine hits both. First it checks that both run the same model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from wrinklefree import _engine

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, VOCAB = 576, 1536, 30, 9, 3, 49152
HEAD_DIM = HIDDEN // HEADS
PROMPT = [int(i) for i in np.random.default_rng(1).integers(300, VOCAB, 128)]
TOKENS = 48


def ternary_q4_0(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Random codes as Q4_0 bytes [rows, columns / 32 * 18]: scale d, nibbles code + 8."""
    codes = rng.integers(-1, 2, (rows, columns // 32, 32)).astype(np.int8)
    blocks = np.empty((rows, columns // 32, 18), dtype=np.uint8)
    scale = np.float16(1.2 / np.sqrt(columns))
    blocks[..., :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
    nibbles = (codes + 8).astype(np.uint8)
    blocks[..., 2:] = nibbles[..., :16] | nibbles[..., 16:] << 4
    return blocks.reshape(rows, -1)


def write_model(path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(100000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    alphabet = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 324)]]
    writer.add_token_list(alphabet + [f"t{i}" for i in range(VOCAB - len(alphabet))])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(VOCAB - 1)

    def add(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(
            name, ternary_q4_0(rows, columns, rng), raw_dtype=gguf.GGMLQuantizationType.Q4_0
        )

    embedding = rng.normal(0, 1, (VOCAB, HIDDEN)).astype(np.float32)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(embedding, q8_0), raw_dtype=q8_0)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    for i in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(HIDDEN, dtype=np.float32))
        add(f"blk.{i}.attn_q.weight", HIDDEN, HIDDEN)
        add(f"blk.{i}.attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{i}.attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{i}.attn_output.weight", HIDDEN, HIDDEN)
        add(f"blk.{i}.ffn_gate.weight", FFN, HIDDEN)
        add(f"blk.{i}.ffn_up.weight", FFN, HIDDEN)
        add(f"blk.{i}.ffn_down.weight", HIDDEN, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt and TOKENS greedy tokens."""

    prefill_tok_per_s: float
    decode_tok_per_s: float
    first_token: int


Runner = Callable[[], Run]


def engine_runner(path: Path, threads: int) -> Runner:
    model = _engine.Model(str(path), threads=threads)
    step, item = model.step, _engine.StepItem

    def run() -> Run:
        sequence = model.sequence(len(PROMPT) + TOKENS)
        sampler = _engine.Sampler(temperature=0)
        start = time.perf_counter()
        token = first = step([item(sequence, PROMPT, sampler)])[0].token
        middle = time.perf_counter()
        for _ in range(TOKENS):
            token = step([item(sequence, [token], sampler)])[0].token
        end = time.perf_counter()
        return Run(len(PROMPT) / (middle - start), TOKENS / (end - middle), first)

    return run


def llama_cpp_runner(path: Path, threads: int) -> Runner:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = False
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    fixed = {"prompt": PROMPT, "temperature": 0, "cache_prompt": False, "ignore_eos": True}

    def ask(**request: int) -> Any:
        answer: Any = server.handle_completions({**fixed, **request})
        return json.loads(answer) if isinstance(answer, str) else answer

    # Asked once: reporting probabilities would slow down the timed runs.
    first = ask(n_predict=1, n_probs=1)["choices"][0]["logprobs"]["content"][0]["id"]

    def run() -> Run:
        timings = ask(n_predict=TOKENS)["timings"]
        return Run(timings["prompt_per_second"], timings["predicted_per_second"], first)

    return run


def report(threads: int, name: str, runs: list[Run]) -> None:
    decode = sorted(run.decode_tok_per_s for run in runs)
    line = {
        "threads": threads,
        "runner": name,
        "prefill_tok_per_s": round(statistics.median(run.prefill_tok_per_s for run in runs), 1),
        "decode_tok_per_s": round(statistics.median(decode), 1),
        "decode_rounds": [round(value, 1) for value in decode],
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    usable = _engine.cpu_info()["threads"]
    parser.add_argument("--threads", type=int, nargs="+", default=[1, usable])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="measure the engine alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "smollm2-135m-shape.gguf"
        write_model(path)
        for threads in dict.fromkeys(options.threads):
            runners = {f"engine ({_engine.cpu_info()['isa']})": engine_runner(path, threads)}
            if not options.no_peer:
                runners["llama.cpp Q4_0"] = llama_cpp_runner(path, threads)
            if len({run().first_token for run in runners.values()}) > 1:  # also the warm-up
                sys.exit("engine and llama.cpp do not agree on the first token")
            runs: dict[str, list[Run]] = {name: [] for name in runners}
            for _ in range(options.rounds):
                for name, run in runners.items():
                    runs[name].append(run())
            for name in runners:
                report(threads, name, runs[name])


if __name__ == "__main__":
    main()
