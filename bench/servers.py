"""python bench/servers.py MODEL.gguf [--concurrency 1,4,16] [--threads 2]
python bench/servers.py --shape llama-164m [--tokenizer DIR]

wf-serve beside the server of mainline llama.cpp (the package xllamacpp): the same file, threads and
places for answers, requests in turns. Prints the rows of `wf bench serve` and their ratios.
`--shape` writes a TQ2_0 file with random weights, whose answers mean nothing and take as long.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from wrinklefree.bench.serve import Load, bench_servers
from wrinklefree.bench.shapes import BITNET, Model
from wrinklefree.bench.synthetic import write_model

# SmolLM2-135M with rows of 768 and 2048 instead of 576 and 1536, which no block of 256 divides.
SHAPES = {"llama-164m": Model("Llama-164M", 20, 768, 2048, 12, 4, 64, 49152), "2b-4t": BITNET}
CONTEXT = 1024  # tokens of each answer's place
LLAMA_CPP = """
import sys, time, xllamacpp
path, places, context, threads = sys.argv[1], *map(int, sys.argv[2:])
parameters = xllamacpp.CommonParams()
parameters.model.path = path
parameters.n_ctx = places * context
parameters.n_parallel = places
parameters.cpuparams.n_threads = threads
parameters.cpuparams_batch.n_threads = threads
parameters.port = 0
parameters.verbosity = -1
server = xllamacpp.Server(parameters)
print(f"listening on {server.listening_address}/v1", flush=True)
time.sleep(1e9)
"""


@contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """URL of a server that runs until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"(http://[\d.]+:\d+)/v1", line):
                yield found.group(1)
                return
        raise click.ClickException(f"{command[0]} did not start")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def random_model(shape: Model, tokenizer: Path | None) -> Iterator[Path]:
    """A file that is there until the block ends."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{shape.name}.gguf"
        write_model(
            path,
            shape,
            layers=shape.layers,
            vocab=shape.vocab,
            linear_type="TQ2_0",
            head_type="Q6_K",
            tokenizer=tokenizer,
        )
        yield path


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Random weights instead of MODEL.")
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, path_type=Path),
    help="Directory with a tokenizer.json for --shape; without it a byte is a token.",
)
@click.option("--concurrency", default="1,4,16")
@click.option("--threads", default=2)
@click.option("--requests", default=32)
@click.option("--tokens", default=64)
@click.option("--rounds", default=3)
def main(
    model: Path | None, shape: str | None, tokenizer: Path | None, concurrency: str, **load: int
) -> None:
    if (model is None) == (shape is None) or (tokenizer and model):
        raise click.UsageError("give a MODEL, or a --shape with or without a --tokenizer")
    users = tuple(int(number) for number in concurrency.split(","))
    if model is not None:
        compare(model, users, **load)
        return
    with random_model(SHAPES[str(shape)], tokenizer) as path:
        compare(path, users, **load)


def compare(
    model: Path, users: tuple[int, ...], *, threads: int, requests: int, tokens: int, rounds: int
) -> None:
    places = max(users)
    ours = [str(Path(sys.executable).with_name("wf-serve")), str(model), "--port", "0"]
    ours += ["--parallel", str(places), "--threads", str(threads), "--context", str(CONTEXT)]
    numbers = [str(number) for number in (places, CONTEXT, threads)]
    theirs = [sys.executable, "-c", LLAMA_CPP, str(model), *numbers]
    load = Load(users, requests=requests, max_tokens=tokens, rounds=rounds)
    with serving(ours) as our_url, serving(theirs) as their_url:
        names = {our_url: "wf-serve", their_url: "llama.cpp"}
        rows = bench_servers(list(names), load, progress=lambda line: click.echo(line, err=True))
    for row in rows:
        row["url"] = names[row["url"]]
        print(json.dumps(row))
    for count in users:
        ours_row, theirs_row = (row for row in rows if row["concurrency"] == count)
        rate = ours_row["tokens_per_s"] / theirs_row["tokens_per_s"]
        first = ours_row["first_token_ms_p50"] / theirs_row["first_token_ms_p50"]
        print(
            f"{count} at once: {rate:.2f} times the tokens/s, {first:.2f} of the first token's time"
        )


if __name__ == "__main__":
    main()
