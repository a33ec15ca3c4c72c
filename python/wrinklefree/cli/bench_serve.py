"""wf bench serve URL...: how a server answers under load."""

from __future__ import annotations

import json

import click

from wrinklefree.cli.command import Command, json_option
from wrinklefree.errors import UsageError

EXAMPLES = """
wf bench serve http://127.0.0.1:8080
wf bench serve http://127.0.0.1:8080 http://127.0.0.1:8081 --concurrency 1,4,16 --json
"""


@click.command("serve", cls=Command, epilog=EXAMPLES)
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--concurrency", default="1,4,16", show_default=True, help="Requests at once.")
@click.option("--requests", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--prompt", type=click.IntRange(1), default=600, show_default=True, help="Characters."
)
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Per answer.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--api-key", envvar="OPENAI_API_KEY", help="Default: $OPENAI_API_KEY.")
@json_option
def serve(
    urls: tuple[str, ...],
    concurrency: str,
    requests: int,
    prompt: int,
    tokens: int,
    rounds: int,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Time to the first token, between tokens, and tokens per second of OpenAI-compatible servers.

    Several servers take turns, so that a noisy machine disturbs all alike. Greedy texts are
    compared with those of one request at a time.
    """
    try:
        users = tuple(int(number) for number in concurrency.split(","))
    except ValueError:
        users = ()
    if not users or min(users) < 1:
        raise UsageError(f"--concurrency takes numbers with commas between, not {concurrency!r}")
    try:
        from wrinklefree.bench.serve import Load, bench_servers
    except ImportError as error:
        raise UsageError(f'{error.name} is missing: pip install "wrinklefree[serve]"') from error

    rows = bench_servers(
        [url.rstrip("/").removesuffix("/v1") for url in urls],
        Load(users, requests, prompt, tokens, rounds),
        api_key=api_key,
        progress=lambda line: None if as_json else click.echo(line, err=True),
    )
    if as_json:
        click.echo(json.dumps({"rows": rows}))
        return
    show(rows)


def show(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="left" if key == "url" else "right")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    Console().print(table)
