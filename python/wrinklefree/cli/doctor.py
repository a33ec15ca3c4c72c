"""`wf doctor`: what was built, what was loaded, which ISA runs and why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform

import click

from wrinklefree._version import __version__
from wrinklefree.cli.command import Command, json_option, verbose_option


def _native_wing() -> dict[str, str]:
    try:
        from wrinklefree import _engine
    except ImportError as error:
        return {"engine": f"not loaded: {error}"}
    build, cpu = _engine.build_info(), _engine.cpu_info()
    forced = os.environ.get("WF_ISA")
    reason = f"WF_ISA={forced}" if forced else "best of what this CPU and OS support"
    return {
        "engine": f"loaded, built by {build['compiler']}",
        "isa": f"{cpu['isa']} ({reason}; available: {', '.join(cpu['available'])})",
        "threads": f"{cpu['threads']} (CPU affinity and cgroup quota)",
    }


def _torch_wing() -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return {"torch": "not installed: training and torch evaluation are not available"}
    import torch

    from wrinklefree import _native

    cuda = "no CUDA build" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    status = _native.status()
    return {"torch": f"{torch.__version__} ({cuda})", **status}


def _packages() -> dict[str, str]:
    names = ("transformers", "tokenizers", "gguf", "fastapi", "xllamacpp")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@click.command(cls=Command, epilog="wf doctor\nwf doctor --json")
@json_option
@verbose_option
def doctor(as_json: bool) -> None:
    """Print what was built, what was loaded, which ISA runs and why."""
    facts = {
        "wrinklefree": f"{__version__} on Python {platform.python_version()}, {platform.machine()}",
        **_native_wing(),
        **_torch_wing(),
        **_packages(),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        click.echo(f"{key:14} {value}")
