"""wf bench: how fast a model runs here."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from wrinklefree import plots
from wrinklefree.cli.bench_serve import serve
from wrinklefree.cli.bench_train import train
from wrinklefree.cli.command import Command, Group
from wrinklefree.errors import UsageError

EXAMPLES = """
wf bench model student.gguf
wf bench model --shape 2b-4t --threads 2 --json
wf bench model student.gguf --depth 4000 --kv-cache f16
wf bench model student.gguf --profile --plot roofline.png
"""
SHAPES = {"smollm2-135m": ("SMOLLM2", "Q4_0", "Q8_0"), "2b-4t": ("BITNET", "TQ2_0", "F16")}


@click.group(cls=Group)
def bench() -> None:
    """Measure the engine, the trainer and servers."""


bench.add_command(serve)
bench.add_command(train)


@bench.command(cls=Command, epilog=EXAMPLES)
@click.argument("path", metavar="[MODEL]", type=click.Path(path_type=Path), required=False)
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Instead: random weights.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: what this process may use.")
@click.option("--prompt", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--depth", type=click.IntRange(min=0), default=0, help="Tokens before decoding.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Sequences decoded together.")
@click.option("--kv-cache", type=click.Choice(["f32", "f16", "bf16", "int8"]), default="f32")
@click.option("--head", type=click.Choice(["auto", "screened", "stored"]), default="auto")
@click.option("--layout", type=click.Choice(["auto", "t2", "t1"]), default="auto")
@click.option("--profile", is_flag=True, help="Also where the time of a step goes.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Also draw a roofline."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def model(
    path: Path | None, shape: str | None, plot: Path | None, as_json: bool, **options: Any
) -> None:
    """Prefill, decode, load time and memory of MODEL, an artifact directory or a .gguf file."""
    if (path is None) == (shape is None):
        raise UsageError("give a model or --shape, one of both")
    if plot is not None:
        plots.check(plot)
    if path is not None:
        show(measure(path, plot=plot, **options), as_json)
        return
    assert shape is not None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{shape}.gguf"
        write_shape(path, shape)
        show(measure(path, plot=plot, **options), as_json)


def measure(
    path: Path, *, threads: int | None, plot: Path | None, **options: Any
) -> dict[str, Any]:
    from wrinklefree import _engine
    from wrinklefree.bench.model import Plan, bench_model
    from wrinklefree.bench.roofline import draw
    from wrinklefree.errors import FormatError, WrinklefreeError

    if not path.exists():
        raise UsageError(f"no model at {path}: give a model directory or a .gguf file")
    try:
        threads = threads or int(_engine.cpu_info()["threads"])
        plan = Plan(threads=threads, roofline=plot is not None, **options)
        figures = bench_model(path, plan)
    except _engine.FormatError as error:
        raise FormatError(str(error)) from error
    except _engine.ModelError as error:
        raise WrinklefreeError(str(error)) from error
    if plot is not None:
        with plots.picture(plot) as axes:
            threads = figures["threads"]
            title = f"{path.name}, {figures['isa']}, {threads} thread{'s' if threads > 1 else ''}"
            draw(axes, figures["roofline"], title)
    return figures


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
    tables = {key: result.pop(key) for key in ("profile", "roofline") if key in result}
    width = max(map(len, result))
    for key, value in result.items():
        click.echo(f"{key:{width}}  {value}")
    if "profile" in tables:
        show_profile(tables["profile"])
    if "roofline" in tables:
        show_roofline(tables["roofline"])


def show_profile(profile: dict[str, dict[str, float]]) -> None:
    click.echo("\nshare of the step" + "".join(f"{name:>10}" for name in profile))
    for phase in next(iter(profile.values())):
        shares = "".join(f"{shares[phase]:>10.1%}" for shares in profile.values())
        click.echo(f"{phase.replace('_', ' + '):17}{shares}")


def show_roofline(roofline: dict[str, Any]) -> None:
    click.echo(f"\n{'roofline':30}  MAC/byte    GMAC/s")
    for point in roofline["points"]:
        click.echo(f"{point['name']:30}{point['macs_per_byte']:>10}{point['gmacs']:>10}")
    if roofline["multiply_gmacs"]:
        name = f"peak of {roofline['multiply_instruction']}"
        click.echo(f"{name:30}{'':10}{roofline['multiply_gmacs']:>10}")
