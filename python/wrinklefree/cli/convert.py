"""wf-convert SRC DST: between artifacts, GGUF files, BitNet checkpoints and float directories.

`wf-convert inspect MODEL` prints what each holds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wrinklefree.cli.command import Command, json_option, verbose_option, version_option
from wrinklefree.cli.convert_checks import LEVELS, Checks
from wrinklefree.cli.convert_inspect import inspect
from wrinklefree.cli.convert_report import (
    directory_report,
    plan_report,
    print_directory,
    print_plan,
    print_ternarized,
    progress_bar,
    size,
    ternarized_report,
)
from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from wrinklefree.convert.source import Source
    from wrinklefree.convert.ternary_check import TernaryError
    from wrinklefree.convert.to_hf import Form

EXAMPLES = """
wf-convert runs/s3 student.gguf
wf-convert runs/s3 student.gguf --type tq1_0 --strict --verify llama.cpp
wf-convert runs/s3 student.gguf --embed-type q6_k --verify full
wf-convert SmolLM2-135M-Instruct.Q4_1.gguf teacher/ --to hf
wf-convert student.gguf back/ --to hf --dry-run
wf-convert bitnet-b1.58-2B-4T/ student.gguf --type i2_s
wf-convert runs/s3 packed/ --to bitnet --linear-class autobitlinear
wf-convert inspect student.gguf --plot codes.png
"""


class _WithInspect(Command):
    """`wf-convert inspect` is a command of its own; a path of that name is ./inspect."""

    def main(self, *args: Any, **options: Any) -> Any:
        given = args[0] if args else options.pop("args", None)
        words = list(sys.argv[1:] if given is None else given)
        if words[:1] == ["inspect"]:
            return inspect.main(words[1:], **{**options, "prog_name": "wf-convert inspect"})
        return super().main(words, **options)


@click.command(cls=_WithInspect, epilog=EXAMPLES)
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["gguf", "hf", "bitnet", "float"], case_sensitive=False),
    help="hf: an artifact, or a float directory from a float GGUF; bitnet: packed, for "
    "transformers; float: dequantized. Default: gguf if DST ends in .gguf, else hf.",
)
@click.option(
    "--type",
    "wanted",
    default="auto",
    show_default=True,
    help="Type of ternary tensors: auto, tq2_0, tq1_0 or i2_s.",
)
@click.option(
    "--embed-type",
    "embed",
    default="auto",
    show_default=True,
    help="Type of embedding and head: auto (q8_0 where exact, else f16), q4_0, q6_k, q8_0, f16, "
    "bf16 or f32.",
)
@click.option(
    "--linear-class",
    type=click.Choice(["autobitlinear", "bitlinear"], case_sensitive=False),
    help="Of --to bitnet: results are multiplied by weight_scale (autobitlinear, the default), or "
    "divided.",
)
@click.option(
    "--ternarize",
    type=click.Choice(["absmean"]),
    help="Quantize a float model that was not trained for it, and print the error of each matrix.",
)
@click.option(
    "--i2s-group",
    type=click.Choice(["128", "64"]),
    default="128",
    show_default=True,
    help="Interleaving of I2_S tensors in SRC: 64 if an ARM build of bitnet.cpp wrote it.",
)
@click.option("--strict", is_flag=True, help="Fail if a tensor cannot have the requested type.")
@click.option(
    "--verify",
    "level",
    type=click.Choice(LEVELS),
    default="logits",
    show_default=True,
    help="tensors: read back and compare; logits: token ids and logits as well; full: and the "
    "perplexity of both; llama.cpp: and how mainline llama.cpp runs the file.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Text for the perplexities, UTF-8. Default: a page that comes with the package.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be written and stop.")
@json_option
@verbose_option
@version_option("wf-convert")
def main(
    src: Path,
    dst: Path,
    to: str | None,
    wanted: str,
    embed: str,
    linear_class: str | None,
    ternarize: str | None,
    i2s_group: str,
    strict: bool,
    level: str,
    text: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert SRC, a model directory or a .gguf file, to DST.

    A ternary model keeps its codes bit for bit in every direction. A float GGUF becomes a float
    directory (its dequantized weights). Nothing appears at DST unless all of it is right.
    `wf-convert inspect MODEL` prints what a file or directory holds.
    """
    to = to or ("gguf" if dst.suffix == ".gguf" else "hf")
    checks = Checks(level, text, as_json)
    if not src.exists():
        raise UsageError(f"{src} does not exist")
    if to != "gguf" and (wanted, embed, strict) != ("auto", "auto", False):
        raise UsageError("--type, --embed-type and --strict belong to --to gguf")
    if to != "bitnet" and linear_class is not None:
        raise UsageError("--linear-class belongs to --to bitnet")
    from wrinklefree.convert.open_source import open_source
    from wrinklefree.convert.source import measure
    from wrinklefree.convert.to_hf import Form

    source = open_source(
        src,
        ternarize=ternarize is not None,
        i2s_group=int(i2s_group),
        may_be_float=to in ("hf", "float"),
    )
    errors = measure(source) if source.is_ternarized else []
    if to == "gguf":
        report = _to_gguf(source, dst, wanted, embed, strict, checks, dry_run, errors)
    else:
        if to == "bitnet":
            form = Form(linear_class or "autobitlinear")
        else:
            form = Form.FLOAT if to == "float" or source.is_float_model else Form.ARTIFACT
        report = _to_hf(source, dst, form, checks, dry_run, errors)
    if as_json:
        click.echo(json.dumps(report))


def _to_gguf(
    source: Source,
    dst: Path,
    wanted: str,
    embed: str,
    strict: bool,
    checks: Checks,
    dry_run: bool,
    errors: list[TernaryError],
) -> dict[str, Any]:
    from wrinklefree.convert.atomic import new_file
    from wrinklefree.convert.plan import plan_gguf
    from wrinklefree.convert.to_gguf import write_gguf

    plan = plan_gguf(source, wanted=wanted, embed=embed)
    if strict:
        plan.refuse_fallbacks()
    checks.refuse(source, plan)
    report = plan_report(plan, dst) | ternarized_report(errors)
    if not checks.is_quiet:
        print_plan(plan, dst)
        print_ternarized(errors)
    if dry_run:
        return report | {"written": False}
    with new_file(dst) as temporary:
        with progress_bar("writing", checks.is_quiet) as show:
            write_gguf(plan, temporary, show)
        report["bytes"] = temporary.stat().st_size
        report["verified"] = checks.of_file(plan, temporary)
    if not checks.is_quiet:
        click.echo(f"wrote {dst}: {size(report['bytes'])} (source {size(plan.source.num_bytes)})")
    return report | {"written": True}


def _to_hf(
    source: Source,
    dst: Path,
    form: Form,
    checks: Checks,
    dry_run: bool,
    errors: list[TernaryError],
) -> dict[str, Any]:
    from wrinklefree.convert.atomic import new_directory
    from wrinklefree.convert.to_hf import check_form, write_hf

    checks.refuse(source, None)
    check_form(source, form)
    report = directory_report(source, dst, form) | ternarized_report(errors)
    if not checks.is_quiet:
        print_directory(report)
        print_ternarized(errors)
    if dry_run:
        return report | {"written": False}
    with new_directory(dst) as temporary:
        with progress_bar("writing", checks.is_quiet) as show:
            write_hf(source, temporary, form, show)
        report["verified"] = checks.of_directory(source, temporary, form)
    if not checks.is_quiet:
        click.echo(f"wrote {dst}")
    return report | {"written": True}
