"""The click command class that all command lines share: one-line errors and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

from wrinklefree._version import __version__
from wrinklefree.errors import WrinklefreeError, nearest

INTERRUPTED = 130

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _ErrorLine:
    """Mixin for click commands: an error of ours is one line, Ctrl-C is exit code 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        standalone = kwargs.pop("standalone_mode", True)
        try:
            result = super().main(*args, standalone_mode=False, **kwargs)  # type: ignore[misc]
        except WrinklefreeError as error:
            if not standalone:
                raise
            if "-v" in sys.argv or "--verbose" in sys.argv:
                traceback.print_exc()
            click.echo(f"error: {_one_line(error)}", err=True)
            sys.exit(error.exit_code)
        except click.NoSuchOption as error:
            if not standalone:
                raise
            hint = nearest(error.option_name, error.possibilities or [])
            click.echo(f"error: no such option {error.option_name!r}{hint}", err=True)
            sys.exit(2)
        except click.ClickException as error:
            if not standalone:
                raise
            click.echo(f"error: {_one_line(Exception(error.format_message()))}", err=True)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            if not standalone:
                raise
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        if standalone:
            sys.exit(result if isinstance(result, int) else 0)
        return result


class Command(_ErrorLine, click.Command):
    """A single command, used as `@click.command(cls=Command, epilog=EXAMPLES)`."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click re-wraps epilogs; examples must stay copyable lines.
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            for line in self.epilog.strip().splitlines():
                formatter.write(f"  {line.strip()}\n")


class Group(_ErrorLine, click.Group):
    """A command with verbs; an unknown verb names the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            hint = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"no such command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


def version_option(name: str) -> Callable[[Decorated], Decorated]:
    """The `--version` option of the command line called `name`."""
    return click.version_option(__version__, prog_name=name)


verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks of errors."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
