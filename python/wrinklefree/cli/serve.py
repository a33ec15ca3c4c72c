"""wf-serve MODEL: an OpenAI-compatible server and a chat page for one model."""

from __future__ import annotations

import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wrinklefree.cli.command import Command, verbose_option, version_option
from wrinklefree.cli.loading import loading_line
from wrinklefree.errors import UsageError, WrinklefreeError

if TYPE_CHECKING:
    from wrinklefree.engine import LLM
    from wrinklefree.engine.llm import KvCache
    from wrinklefree.serve.settings import Settings

EXAMPLES = """
wf-serve student.gguf
wf-serve runs/s3 --port 9000 --threads 4 --parallel 8
wf-serve student.gguf --host 0.0.0.0 --api-key-file keys.txt
"""
# Of the extra `serve`, as far as the server imports them.
PACKAGES = ("fastapi", "llguidance", "prometheus_client", "pydantic", "uvicorn")


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--model-name", help="In /v1/models and requests; default: the name of MODEL.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: what this process may use.")
@click.option("--context", type=click.IntRange(min=2), help="Tokens; default: the model's own.")
@click.option(
    "--kv-cache",
    type=click.Choice(["f32", "f16", "bf16", "int8"]),
    default="f32",
    show_default=True,
    help="Type of keys and values in memory.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="File with one accepted key per line; other hosts than loopback need this or "
    "WF_API_KEYS, keys with commas between them.",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Answers generated at the same time.",
)
@click.option(
    "--kv-memory",
    type=click.IntRange(min=1),
    help="MiB for keys and values of running answers; default: 80 % of the memory that is free "
    "after the load, less the prefix cache.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Answers that may wait; more are refused with 429.",
)
@click.option(
    "--prefix-cache",
    type=click.IntRange(min=0),
    default=256,
    show_default=True,
    help="MiB of keys and values kept for prompts that begin like earlier ones; 0: none.",
)
@verbose_option
@version_option("wf-serve")
def main(
    model: Path,
    host: str,
    model_name: str | None,
    port: int,
    threads: int | None,
    context: int | None,
    kv_cache: KvCache,
    api_key_file: Path | None,
    parallel: int,
    kv_memory: int | None,
    max_queue: int,
    prefix_cache: int,
) -> None:
    """Serve MODEL, an artifact directory or a .gguf file.

    Speaks OpenAI's /v1/chat/completions and /v1/completions; the chat page is at /.
    """
    from wrinklefree.serve.free_memory import free_bytes
    from wrinklefree.serve.kv_memory import fitting
    from wrinklefree.serve.settings import Settings

    check_packages()
    settings = Settings(
        model_name=chosen_name(model, model_name),
        host=host,
        api_keys=(*keys_of_environment(), *(read_keys(api_key_file) if api_key_file else ())),
        parallel=parallel,
        max_queue=max_queue,
        prefix_cache_bytes=prefix_cache << 20,
    )
    if not settings.is_local and not settings.api_keys:
        raise UsageError(
            f"--host {host} lets other machines connect: give --api-key-file or WF_API_KEYS, or "
            "use 127.0.0.1"
        )
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    with (
        listen(host, port) as listener,
        load(model, threads=threads, context=context, kv_cache=kv_cache) as llm,
    ):
        settings, notes = fitting(
            settings,
            context=llm.info["context_length"],
            bytes_per_token=llm.info["kv_bytes_per_token"],
            free_bytes=free_bytes(),
            wanted_bytes=None if kv_memory is None else kv_memory << 20,
        )
        for note in notes:
            click.echo(note)
        run(llm, settings, listener)


def chosen_name(model: Path, name: str | None) -> str:
    """The name of the model; raises UsageError for one that a request could hardly spell."""
    if name is None:
        return model.resolve().name.removesuffix(".gguf")
    if not name.strip() or not name.isprintable():
        raise UsageError(f"--model-name {name!r}: give printable characters")
    return name


def check_packages() -> None:
    """Raises UsageError if the extra `serve` is not installed, which the imports would tell only
    after the load."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UsageError(f'{package} is missing: pip install "wrinklefree[serve]"')


def keys_of_environment() -> tuple[str, ...]:
    """Keys of WF_API_KEYS, with commas between them."""
    keys = os.environ.get("WF_API_KEYS", "").split(",")
    return tuple(key.strip() for key in keys if key.strip())


def read_keys(path: Path) -> tuple[str, ...]:
    """Keys of a file, one per line; raises UsageError if there are none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file {path}: cannot be read ({error})") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise UsageError(f"--api-key-file {path}: there is no key in it")
    return keys


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # NOTE: asyncio turns Nagle's delay off only for sockets that name their protocol.
        listener = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise WrinklefreeError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def load(model: Path, *, threads: int | None, context: int | None, kv_cache: KvCache) -> LLM:
    """The loaded model. The engine reads without the interpreter lock, so the modules of the HTTP
    side are imported meanwhile: half a second of the start. The load has the main thread, which
    is the one that Ctrl-C interrupts."""
    from wrinklefree.engine import LLM

    with ThreadPoolExecutor(1) as pool:
        modules = ("wrinklefree.serve.connections", "wrinklefree.serve.app")
        importing = pool.map(import_module, modules)
        llm = LLM(
            model,
            threads=threads,
            context=context,
            kv_cache=kv_cache,
            progress=loading_line(),
        )
        list(importing)  # raises what an import did
    return llm


def run(llm: LLM, settings: Settings, listener: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C; running requests may finish. Raises if the engine breaks."""
    import uvicorn

    from wrinklefree.serve.app import build_app
    from wrinklefree.serve.connections import BACKLOG, connection_class
    from wrinklefree.serve.native import NativeModel

    app = build_app(NativeModel(llm), settings)
    worker = app.state.worker

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or worker.is_broken

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            for line in greeting(llm, settings, listener):
                click.echo(line)

    config = uvicorn.Config(
        app,
        http=connection_class(settings),
        ws="none",
        backlog=BACKLOG,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
    )
    # uvicorn raises the signal again once it has shut down: a drained server exits with 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    Server(config).run(sockets=[listener])
    if worker.is_broken:
        raise WrinklefreeError("the engine stopped; its log is above")


def greeting(llm: LLM, settings: Settings, listener: socket.socket) -> list[str]:
    """What runs and where; printed when the port is open."""
    from wrinklefree.engine.default_sampling import described

    info = llm.info
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [
        f"{settings.model_name}: {info['format']}, {info['bits_per_weight']:.2f} bits per weight, "
        f"{info['isa']}, {info['threads']} threads, context {info['context_length']}",
        f"chat page http://{host}:{port}/   OpenAI API http://{host}:{port}/v1",
    ]
    if llm.tokenizer.chat_template is None:
        lines.insert(1, "no chat template in the model: it continues the messages as plain text")
    if wishes := llm.default_sampling:
        lines.insert(1, f"the model's own sampling: {described(wishes)}")
    return lines
