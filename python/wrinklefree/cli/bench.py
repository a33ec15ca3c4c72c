"""wf bench: how fast a model runs here."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from wrinklefree.cli.command import Command, Group
from wrinklefree.errors import UsageError

EXAMPLES = """
wf bench model student.gguf
wf bench model --shape 2b-4t --threads 2 --json
wf bench model student.gguf --prompt 4000 --kv-cache f16
"""
SHAPES = {"smollm2-135m": ("SMOLLM2", "Q4_0", "Q8_0"), "2b-4t": ("BITNET", "TQ2_0", "F16")}


@click.group(cls=Group)
def bench() -> None:
    """Measure the engine on this machine."""


@bench.command(cls=Command, epilog=EXAMPLES)
@click.argument("path", metavar="[MODEL]", type=click.Path(path_type=Path), required=False)
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Instead: random weights.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: what this process may use.")
@click.option("--prompt", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Sequences decoded together.")
@click.option("--kv-cache", type=click.Choice(["f32", "f16", "bf16", "int8"]), default="f32")
@click.option("--head", type=click.Choice(["auto", "screened", "stored"]), default="auto")
@click.option("--layout", type=click.Choice(["auto", "t2", "t1"]), default="auto")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def model(path: Path | None, shape: str | None, as_json: bool, **options: Any) -> None:
    """Prefill, decode, load time and memory of MODEL, an artifact directory or a .gguf file."""
    if (path is None) == (shape is None):
        raise UsageError("give a model or --shape, one of both")
    if path is not None:
        show(measure(path, **options), as_json)
        return
    assert shape is not None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{shape}.gguf"
        write_shape(path, shape)
        show(measure(path, **options), as_json)


def measure(path: Path, *, threads: int | None, **options: Any) -> dict[str, Any]:
    from wrinklefree import _engine
    from wrinklefree.bench.model import Plan, bench_model
    from wrinklefree.errors import FormatError, WrinklefreeError

    if not path.exists():
        raise UsageError(f"no model at {path}: give a model directory or a .gguf file")
    try:
        threads = threads or int(_engine.cpu_info()["threads"])
        return bench_model(path, Plan(threads=threads, **options))
    except _engine.FormatError as error:
        raise FormatError(str(error)) from error
    except _engine.ModelError as error:
        raise WrinklefreeError(str(error)) from error


def write_shape(path: Path, shape: str) -> None:
    """In another process: what the writer holds must not count as memory of the model."""
    name, linear_type, head_type = SHAPES[shape]
    code = (
        "import sys; from pathlib import Path; from wrinklefree.bench import shapes, synthetic;"
        "path, name, linear, head = sys.argv[1:]; m = getattr(shapes, name);"
        "synthetic.write_model(Path(path), m, layers=m.layers, vocab=m.vocab,"
        " linear_type=linear, head_type=head)"
    )
    command = [sys.executable, "-c", code, str(path), name, linear_type, head_type]
    subprocess.run(command, check=True)


def show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    width = max(map(len, result))
    for key, value in result.items():
        click.echo(f"{key:{width}}  {value}")
