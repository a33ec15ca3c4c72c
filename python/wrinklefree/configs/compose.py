"""Hydra's compose API over the packaged groups: command-line overrides to a RunConfig."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wrinklefree.configs.build import build_run, leaves
from wrinklefree.configs.config import GROUPS, RunConfig
from wrinklefree.errors import UsageError, nearest

DIRECTORY = Path(__file__).parent


def group_choices(group: str) -> list[str]:
    """Names that can be given as GROUP=NAME."""
    return sorted(path.stem for path in (DIRECTORY / group).glob("*.yaml"))


def compose_run(overrides: Iterable[str]) -> RunConfig:
    """The run that the overrides describe. Raises UsageError, naming the nearest valid word."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    given = [_split(override) for override in overrides]
    checked = _check(given)
    # Hydra keeps one global state per process; a caller that composes twice must not trip over it.
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(DIRECTORY)):
            composed = compose("config", overrides=checked)
        values: Any = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"the settings cannot be read: {reason}") from None
    return build_run(values)


def _split(override: str) -> tuple[str, str]:
    match = re.fullmatch(r"([A-Za-z_][\w.]*)=(.*)", override, re.DOTALL)
    if match is None:
        raise UsageError(f"{override!r} is no setting; write key=value, for example out=runs/s1")
    return match[1], match[2]


def _check(given: list[tuple[str, str]]) -> list[str]:
    """Hydra overrides; keys that only the schema has are added to what the YAML files set."""
    chosen = {key: value for key, value in given if key in GROUPS}
    for group, name in chosen.items():
        if name not in group_choices(group):
            allowed = ", ".join(group_choices(group))
            raise UsageError(
                f"{group}={name}: allowed are {allowed}{nearest(name, group_choices(group))}"
            )
    if "training" not in chosen:
        raise UsageError(
            f"name the stage: training=NAME, one of {', '.join(group_choices('training'))}"
        )
    known = leaves(chosen["training"])
    for key, _ in given:
        if key not in known and key not in GROUPS:
            raise UsageError(
                f"unknown key {key} for training={chosen['training']}{nearest(key, known)}"
            )
    return [f"{key}={value}" if key in GROUPS else f"++{key}={value}" for key, value in given]
