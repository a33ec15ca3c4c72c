"""wf-train: run one stage, composed from the packaged config groups and KEY=VALUE settings."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from wrinklefree.cli.command import Command, json_option, verbose_option, version_option

EXAMPLES = """
wf-train training=teacher_sft model.path=base data.path=t.jsonl data.format=choice out=sft
wf-train training=stage1_subln model.path=base data.path=c.jsonl out=s1
wf-train training=stage1_9_layerwise model.path=s1 training.teacher=base data.path=c.jsonl out=s19
wf-train training=stage2_pretrain model.path=s19 data.path=c.jsonl training.lr=2e-4 out=s2
wf-train training=stage3_distill model.path=s2 training.teacher=sft data.path=t.jsonl \
  data.format=choice out=s3
wf-train report s3
"""


class _TrainCommand(Command):
    """Adds the groups and keys, read from the schema, to `--help`; knows the verb `report`."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        if given[:1] == ["report"]:
            from wrinklefree.cli.train_report import report

            return report.main(given[1:], *more, **{**extra, "prog_name": "wf-train report"})
        return super().main(given, *more, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from wrinklefree.configs.build import leaves
        from wrinklefree.configs.compose import group_choices
        from wrinklefree.configs.config import GROUPS

        super().format_options(ctx, formatter)
        with formatter.section("Groups (GROUP=NAME)"):
            formatter.write_dl([(group, ", ".join(group_choices(group))) for group in GROUPS])
        for title, stage in (("", "stage2_pretrain"), (" of stage1_subln", "stage1_subln")):
            keys = leaves(stage).items()
            shown = [
                (key, str(leaf.metadata.get("help", "")))
                for key, leaf in keys
                if not leaf.metadata.get("help", "").startswith("name of the stage")
                and (stage != "stage1_subln" or key.startswith("training."))
            ]
            with formatter.section(f"Keys{title} (KEY=VALUE)"):
                formatter.write_dl(shown)


@click.command(cls=_TrainCommand, epilog=EXAMPLES)
@click.argument("settings", nargs=-1, metavar="training=STAGE [KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Print the plan (steps, tokens, memory) and stop.")
@json_option
@verbose_option
@version_option("wf-train")
def main(settings: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Run one training stage and leave its artifact at `out`.

    An interrupted run (Ctrl-C, SIGTERM) is saved; the same command continues it.
    `wf-train report RUN` draws what a run did.
    """
    from transformers.utils import logging as transformers_logging

    from wrinklefree.configs.compose import compose_run

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("wrinklefree").setLevel(logging.INFO)
    config = compose_run(settings)
    speaks = os.environ.get("RANK", "0") == "0"  # the first of torchrun's processes, for all
    if dry_run:
        from wrinklefree.training.plan import plan

        facts = plan(config)
        if speaks:
            _print(facts, as_json=as_json)
        return
    from wrinklefree.models.manifest import read_manifest
    from wrinklefree.training.stages import run_stage

    out = run_stage(config)
    if not speaks:
        return
    manifest = read_manifest(out)
    # The long entries stay in wrinklefree.json.
    long = ("continuity", "subln_errors", "input_files")
    metrics = {k: v for k, v in manifest.metrics.items() if k not in long}
    summary = {"out": str(out), "stage": manifest.stage, "lambda": manifest.lam, "metrics": metrics}
    _print(summary, as_json=as_json)


def _print(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values))
        return
    width = max(len(key) for key in values)
    for key, value in values.items():
        if isinstance(value, list):
            for item in value:
                click.echo(f"{key:<{width}}  {item}")
            continue
        text = _with_unit(value) if key.endswith(("_bytes", "_bytes_estimate")) else value
        click.echo(f"{key:<{width}}  {text}")


def _with_unit(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


if __name__ == "__main__":
    main()
