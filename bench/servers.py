"""python bench/servers.py MODEL.gguf [--concurrency 1,4,16] [--threads 2]

wf-serve beside the server of mainline llama.cpp (the package xllamacpp): the same file, threads and
places for answers, requests in turns. Prints the rows of `wf bench serve` and their ratios.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from wrinklefree.bench.serve import Load, bench_servers

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


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--concurrency", default="1,4,16")
@click.option("--threads", default=2)
@click.option("--requests", default=32)
@click.option("--tokens", default=64)
@click.option("--rounds", default=3)
def main(
    model: Path, concurrency: str, threads: int, requests: int, tokens: int, rounds: int
) -> None:
    users = tuple(int(number) for number in concurrency.split(","))
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
