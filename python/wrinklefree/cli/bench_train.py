"""wf bench train: how fast a model trains here."""

from __future__ import annotations

import json
from typing import Any

import click

from wrinklefree.cli.command import Command

EXAMPLES = """
wf bench train --model smollm2_135m --json
wf bench train --batch 4 --length 256 --threads 2 --profile qat
"""
MODELS = {"smollm2_135m": "SMOLLM2", "bitnet_2b_4t": "BITNET"}
VARIANTS = ("plain_bf16", "qat", "qat_int8_grad", "qat_ramp", "qat_eager", "qat_torchao")


@click.command(cls=Command, epilog=EXAMPLES)
@click.option("--model", type=click.Choice(list(MODELS)), default="smollm2_135m", show_default=True)
@click.option("--layers", type=click.IntRange(min=1), help="Default: all of the model's.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Rows.")
@click.option("--length", type=click.IntRange(min=2), default=128, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: what this process may use.")
@click.option("--profile", type=click.Choice(VARIANTS), help="Also its operators by time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def train(
    model: str, layers: int | None, threads: int | None, as_json: bool, **options: Any
) -> None:
    """Steps of ternary training beside plain bfloat16 ones, on random weights and tokens."""
    from wrinklefree import _engine
    from wrinklefree.bench import shapes
    from wrinklefree.bench.train import TrainPlan, bench_train

    shape: shapes.Model = getattr(shapes, MODELS[model])
    shape = shape._replace(layers=layers or shape.layers)
    threads = threads or int(_engine.cpu_info()["threads"])
    result = bench_train(TrainPlan(shape=shape, threads=threads, **options))
    if as_json:
        click.echo(json.dumps(result))
        return
    table = result.pop("profile", None)
    width = max(map(len, result))
    for key, value in result.items():
        click.echo(f"{key:{width}}  {value}")
    if table is not None:
        click.echo(f"\n{table}")
