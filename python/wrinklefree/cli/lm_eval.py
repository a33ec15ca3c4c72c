"""`wf lm-eval` and `wf lm-eval-tasks`: lm-eval judges our models, also on our tasks."""

from __future__ import annotations

from pathlib import Path

import click

from wrinklefree.cli.command import Command, verbose_option
from wrinklefree.errors import UsageError

RUN_EXAMPLES = """
wf lm-eval run --model wrinklefree --model_args model=student.gguf --tasks arc_easy --limit 100
wf lm-eval run --model hf --model_args pretrained=teacher --include_path t --tasks wrinklefree_rte
"""
TASKS_EXAMPLES = """
wf lm-eval-tasks tasks --data glue/
"""


@click.command(
    cls=Command,
    epilog=RUN_EXAMPLES,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lm_eval(arguments: tuple[str, ...]) -> None:
    """lm-eval's command line, in which the model `wrinklefree` is known."""
    try:
        from wrinklefree.eval import lm_eval_model
    except ImportError as error:
        raise UsageError(f"{error}; pip install 'wrinklefree[lm-eval]'") from None
    lm_eval_model.main(arguments)


@click.command(cls=Command, epilog=TASKS_EXAMPLES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with sst2/validation.jsonl and so on. Repeatable.",
)
@verbose_option
def lm_eval_tasks(folder: Path, data: tuple[Path, ...]) -> None:
    """Write our GLUE tasks into FOLDER as task files of lm-eval (its --include_path)."""
    from wrinklefree.eval.lm_eval_tasks import GROUP, write_tasks

    for name in write_tasks(folder, data):
        click.echo(name)
    click.echo(f"all of them: --include_path {folder} --tasks {GROUP}")
