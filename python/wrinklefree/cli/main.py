"""`wf`: the umbrella command. Verbs import lazily, so that `wf --help` is instant."""

from __future__ import annotations

import importlib

import click

from wrinklefree.cli.command import Group, verbose_option, version_option

# verb -> (module, attribute)
VERBS = {
    "bench": ("wrinklefree.cli.bench", "bench"),
    "doctor": ("wrinklefree.cli.doctor", "doctor"),
    "lm-eval": ("wrinklefree.cli.lm_eval", "lm_eval"),
    "lm-eval-tasks": ("wrinklefree.cli.lm_eval", "lm_eval_tasks"),
}
# The list is short on purpose: training, serving and evaluation here are wf-train, wf-serve and
# wf-eval; the verbs train, serve and eval of `wf` are reserved for launching on a cloud.


class LazyGroup(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, attribute = VERBS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.command(cls=LazyGroup)
@version_option("wf")
@verbose_option
def main() -> None:
    """1.58-bit language models: wf-train, wf-convert, wf-eval, wf-serve and wf-chat do the work."""
