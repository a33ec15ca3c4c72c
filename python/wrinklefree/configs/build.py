"""Nested mappings to frozen config dataclasses, with one-line errors that name the nearest key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from wrinklefree.configs.config import DataConfig, GradientConfig, RunConfig, SublnConfig
from wrinklefree.errors import UsageError, nearest


def training_schema(stage: Any) -> type[SublnConfig] | type[GradientConfig]:
    """The dataclass that holds the keys of this stage."""
    return SublnConfig if stage == "stage1_subln" else GradientConfig


def leaves(stage: Any) -> dict[str, dataclasses.Field[Any]]:
    """All dotted keys of a run of this stage, with their fields."""
    found: dict[str, dataclasses.Field[Any]] = {}
    hints = typing.get_type_hints(RunConfig)
    for field in dataclasses.fields(RunConfig):
        group = training_schema(stage) if field.name == "training" else hints[field.name]
        if dataclasses.is_dataclass(group):
            found |= {f"{field.name}.{leaf.name}": leaf for leaf in dataclasses.fields(group)}
        else:
            found[field.name] = field
    return found


def build_run(values: Mapping[str, Any]) -> RunConfig:
    """The validated run. Raises UsageError for unknown, missing, ill-typed or out-of-range keys."""
    hints = typing.get_type_hints(RunConfig)
    training = values.get("training")
    stage = training.get("stage") if isinstance(training, Mapping) else None
    groups: dict[str, Any] = dict(values)
    for name, hint in hints.items():
        schema = training_schema(stage) if name == "training" else hint
        if dataclasses.is_dataclass(schema) and isinstance(values.get(name), Mapping):
            groups[name] = _build(typing.cast("type[Any]", schema), values[name], f"{name}.")
    run = typing.cast("RunConfig", _build(RunConfig, groups, ""))
    _check_data(run.data)
    return run


def _check_data(data: DataConfig) -> None:
    if data.mixture is None:
        if data.path is None:
            raise UsageError("data.path is missing (or a data.mixture); add data.path=...")
        return
    if data.path is not None:
        raise UsageError(f"data.path={data.path} and data.mixture are both given; keep one of them")
    if not sum(source.weight for source in data.mixture) > 0:
        raise UsageError("data.mixture needs a source with a weight above 0")
    if data.streaming is False:
        raise UsageError("data.streaming=false: a mixture is always streamed")


def _build(cls: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise UsageError(f"unknown key {prefix}{key}{nearest(key, fields)}")
    converted: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values and not _is_missing(values[name]):
            converted[name] = _convert(values[name], hints[name], prefix + name, field)
        elif field.default is dataclasses.MISSING:
            text = field.metadata.get("help", "a config group")
            raise UsageError(f"{prefix}{name} is missing ({text}); add {prefix}{name}=...")
    return cls(**converted)


def _is_missing(value: Any) -> bool:
    return bool(value == "???")  # OmegaConf's mark of a mandatory value


def _convert(value: Any, hint: Any, key: str, field: dataclasses.Field[Any]) -> Any:
    if dataclasses.is_dataclass(type(value)):
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (arg for arg in args if arg is not type(None))
        return _convert(value, inner, key, field)
    if origin is Literal:
        if value not in args:
            allowed = ", ".join(str(arg) for arg in args)
            raise UsageError(f"{key}={value}: allowed are {allowed}{nearest(str(value), args)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{key}={value}: expected a list, for example {key}=[a,b]")
        return tuple(
            _convert(item, args[0], f"{key}[{number}]", field) for number, item in enumerate(value)
        )
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"{key}={value}: expected keys and values, for example {{path: a}}")
        return _build(typing.cast("type[Any]", hint), value, f"{key}.")
    return _scalar(value, hint, key, field)


def _scalar(value: Any, hint: type[Any], key: str, field: dataclasses.Field[Any]) -> Any:
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # a path or split that looks like a number
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        value = float(value)
    if type(value) is not hint:
        raise UsageError(f"{key}={value}: expected {hint.__name__}, got {type(value).__name__}")
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if is_number and (value != value or value in (float("inf"), float("-inf"))):
        raise UsageError(f"{key}={value}: must be finite")
    if low is not None and is_number and value < low:
        raise UsageError(f"{key}={value}: must be at least {low}")
    if high is not None and is_number and value > high:
        raise UsageError(f"{key}={value}: must be at most {high}")
    return value
