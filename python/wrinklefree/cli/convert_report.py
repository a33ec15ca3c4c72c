"""What wf-convert prints and puts into its JSON: the plan of a file, its tables, its progress."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from wrinklefree.convert.plan import Plan
    from wrinklefree.convert.source import Source
    from wrinklefree.convert.ternary_check import TernaryError
    from wrinklefree.convert.to_hf import Form
    from wrinklefree.convert.types import TypeShare


def plan_report(plan: Plan, dst: Path) -> dict[str, Any]:
    return {
        "source": str(plan.source.path),
        "destination": str(dst),
        "architecture": plan.architecture.name,
        "source_bytes": plan.source.num_bytes,
        "tensor_bytes": plan.num_bytes,
        "bits_per_weight": 8 * plan.num_bytes / plan.num_parameters,
        "ternary_bits_per_weight": plan.ternary_bits_per_weight,
        "types": [asdict(share) for share in plan.shares],
        "not_ternary": [asdict(share) for share in plan.not_ternary],
        "fallbacks": [
            {"tensor": tensor.gguf_name, "type": tensor.type.name, "reason": tensor.fallback}
            for tensor in plan.fallbacks
        ],
        "notes": plan.notes,
    }


def print_plan(plan: Plan, dst: Path) -> None:
    click.echo(f"{plan.source.path} -> {dst} (architecture {plan.architecture.name})")
    print_types(plan.shares)
    bits = 8 * plan.num_bytes / plan.num_parameters
    click.echo(
        f"  {size(plan.num_bytes)} of tensors: {bits:.4f} bits per weight, "
        f"{plan.ternary_bits_per_weight:.4f} per ternary weight"
    )
    for share in plan.not_ternary:
        click.echo(
            f"  not ternary: {share.share:.2%} of the weights, {share.reason} "
            f"({share.tensors} tensor{'s' if share.tensors > 1 else ''})"
        )
    reasons = Counter((tensor.fallback, tensor.type.name) for tensor in plan.fallbacks)
    for (reason, kind), count in reasons.items():
        click.echo(f"  {count} tensors: {reason}; stored exactly as {kind}")
    for note in plan.notes:
        click.echo(f"  note: {note}")


def directory_report(source: Source, dst: Path, form: Form) -> dict[str, Any]:
    from wrinklefree.convert.to_hf import stored_tensors

    return {
        "source": str(source.path),
        "destination": str(dst),
        "form": form.value,
        "ternary": not source.is_float_model,
        "source_bytes": source.num_bytes,
        "tensor_bytes": sum(tensor.num_bytes for tensor in stored_tensors(source, form)),
    }


def print_directory(report: dict[str, Any]) -> None:
    click.echo(f"{report['source']} -> {report['destination']} (form {report['form']})")
    meanings = {
        "artifact": "an artifact whose masters give the source's codes and scales",
        "float": "the source's weights dequantized to float32, not the original's"
        + ("; activations are no longer quantized" if report["ternary"] else ""),
        "autobitlinear": "packed for transformers; results are multiplied by weight_scale",
        "bitlinear": "packed for transformers; results are divided by weight_scale",
    }
    sizes = f"{size(report['source_bytes'])} in the source, {size(report['tensor_bytes'])} here"
    click.echo(f"  {meanings[report['form']]}; {sizes}")


def ternarized_report(errors: Sequence[TernaryError]) -> dict[str, Any]:
    return {"ternarized": [asdict(error) for error in errors]} if errors else {}


def print_ternarized(errors: Sequence[TernaryError]) -> None:
    if errors:
        click.echo("  ternarized by absmean, as asked; relative error of each matrix:")
    for error in errors:
        click.echo(f"    {error.relative:.3f}  {error.name}")


def print_types(shares: Sequence[TypeShare]) -> None:
    click.echo("  type    tensors     parameters   share        bytes   bits/weight")
    for share in shares:
        click.echo(
            f"  {share.type:<7}{share.tensors:>8}{share.parameters:>15,}{share.share:>8.1%}"
            f"{size(share.num_bytes):>13}{share.bits_per_weight:>14.4f}"
        )


def size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


@contextmanager
def progress_bar(title: str, is_quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal; elsewhere a line every quarter, none at all beside JSON."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)

            def update(done: int, total: int, name: str) -> None:
                bar.update(task, completed=done, total=total, description=f"{title} {name}")

            yield update
        return

    def line(done: int, total: int, name: str) -> None:
        if not is_quiet and done and done % max(1, total // 4) == 0:
            click.echo(f"{title}: {done}/{total} tensors", err=True)

    yield line
