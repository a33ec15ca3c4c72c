"""wf-convert SRC DST: artifact directory to GGUF file, and GGUF file to directory.

`wf-convert inspect MODEL` prints what either holds.
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
from wrinklefree.cli.convert_report import plan_report, print_plan, progress_bar, size
from wrinklefree.errors import UsageError

if TYPE_CHECKING:
    from wrinklefree.convert.gguf_source import GgufSource

EXAMPLES = """
wf-convert runs/s3 student.gguf
wf-convert runs/s3 student.gguf --type tq1_0 --strict --verify llama.cpp
wf-convert runs/s3 student.gguf --embed-type q6_k --verify full
wf-convert SmolLM2-135M-Instruct.Q4_1.gguf teacher/ --to hf
wf-convert student.gguf back/ --to hf --dry-run
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
@click.option("--to", type=click.Choice(["gguf", "hf"]), help="Default: gguf if DST ends in .gguf.")
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
    strict: bool,
    level: str,
    text: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert SRC, a model directory or a .gguf file, to DST.

    A ternary model keeps its codes bit for bit in both directions. A float GGUF becomes a float
    directory (its dequantized weights). Nothing appears at DST unless all of it is right.
    `wf-convert inspect MODEL` prints what a file or directory holds.
    """
    to = to or ("gguf" if dst.suffix == ".gguf" else "hf")
    checks = Checks(level, text, as_json)
    if not src.exists():
        raise UsageError(f"{src} does not exist")
    if to == "gguf":
        if src.is_file():
            raise UsageError(f"{src} is a file: --to gguf converts model directories")
        report = _to_gguf(src, dst, wanted, embed, strict, checks, dry_run)
    else:
        if src.is_dir():
            raise UsageError(f"{src} is a directory: --to hf converts .gguf files")
        checks.refuse(None)
        if (wanted, embed, strict) != ("auto", "auto", False):
            raise UsageError("--type, --embed-type and --strict belong to --to gguf")
        report = _to_hf(src, dst, checks, dry_run)
    if as_json:
        click.echo(json.dumps(report))


def _to_gguf(
    src: Path,
    dst: Path,
    wanted: str,
    embed: str,
    strict: bool,
    checks: Checks,
    dry_run: bool,
) -> dict[str, Any]:
    from wrinklefree.convert.atomic import new_file
    from wrinklefree.convert.plan import plan_gguf
    from wrinklefree.convert.to_gguf import write_gguf

    plan = plan_gguf(src, wanted=wanted, embed=embed)
    if strict:
        plan.refuse_fallbacks()
    checks.refuse(plan)
    report = plan_report(plan, dst)
    if not checks.is_quiet:
        print_plan(plan, dst)
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


def _to_hf(src: Path, dst: Path, checks: Checks, dry_run: bool) -> dict[str, Any]:
    from wrinklefree.convert.atomic import new_directory
    from wrinklefree.convert.from_gguf import float_bytes, write_hf
    from wrinklefree.convert.gguf_source import GgufSource

    source = GgufSource(src)
    report: dict[str, Any] = {
        "source": str(src),
        "destination": str(dst),
        "architecture": source.architecture.name,
        "ternary": source.is_ternary,
        "source_bytes": source.num_bytes,
        "float32_bytes": float_bytes(source),
        "types": _type_counts(source),
    }
    if not checks.is_quiet:
        click.echo(f"{src} -> {dst} (architecture {source.architecture.name})")
        click.echo(f"  types: {', '.join(f'{n} {t}' for t, n in _type_counts(source).items())}")
        click.echo(f"  {_describe(source, report)}")
    if dry_run:
        return report | {"written": False}
    with new_directory(dst) as temporary:
        with progress_bar("writing", checks.is_quiet) as show:
            write_hf(source, temporary, show)
        report["verified"] = checks.of_directory(source, temporary)
    if not checks.is_quiet:
        click.echo(f"wrote {dst}")
    return report | {"written": True}


def _describe(source: GgufSource, report: dict[str, Any]) -> str:
    sizes = f"{size(report['source_bytes'])} in the file, {size(report['float32_bytes'])} here"
    if source.is_ternary:
        return f"ternary: an artifact whose masters give the same codes and scales; {sizes}"
    return f"the model is the file's weights dequantized to float32, not the original's; {sizes}"


def _type_counts(source: GgufSource) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in source.names:
        kind = source.type_name(name)
        counts[kind] = counts.get(kind, 0) + 1
    return counts
