"""How far the load of a model is, for commands that begin with one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click


def loading_line() -> Callable[[int, int], None]:
    """Tells a terminal how far a load is, if it takes more than a second."""
    began = time.perf_counter()

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty() and time.perf_counter() - began > 1:
            line = f"\rloading {done / total:4.0%}"
            click.echo(f"\r{' ' * len(line)}\r" if done == total else line, err=True, nl=False)

    return show
