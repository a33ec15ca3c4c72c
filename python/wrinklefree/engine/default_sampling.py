"""How a model wants its tokens chosen where the user does not say: generation_config.json of a
directory, `general.sampling.*` of a GGUF file. Both are untrusted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

DefaultSampling = dict[str, int | float]
"""Fields of SamplingParams; only those that the model has a wish for."""

_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
# First and last value: those of a request. The engine's floats have 32 bits.
_RANGES = {
    "temperature": (0, 2, "0 to 2"),
    "top_k": (-1, 2**31 - 1, "-1 to 2^31-1"),
    "top_p": (1e-30, 1, "above 0 to 1"),
    "min_p": (0, 1 - 2**-24, "0 to below 1"),
    "repetition_penalty": (0.01, 10, "0.01 to 10"),
}


def from_generation_config(config: Mapping[str, Any], name: str) -> DefaultSampling:
    """Of the fields of transformers; `name` is the file's, for what is logged about bad values.

    Without sampling (do_sample is false) the most likely token is taken: temperature 0.
    """
    found = _checked({field: config.get(field) for field in _KEYS}, name)
    if config.get("do_sample") is False:
        found["temperature"] = 0.0
    return found


def from_gguf(metadata: Mapping[str, Any], name: str) -> DefaultSampling:
    """Of llama.cpp's keys."""
    return _checked({field: metadata.get(key) for field, key in _KEYS.items()}, name)


def to_gguf(sampling: DefaultSampling) -> dict[str, int | float]:
    """The same as keys of a GGUF file."""
    return {_KEYS[field]: value for field, value in sampling.items()}


def to_generation_config(sampling: DefaultSampling) -> dict[str, Any]:
    """The same as fields of transformers, which has no temperature 0."""
    if not sampling:
        return {}
    samples = sampling.get("temperature") != 0
    fields = {name: value for name, value in sampling.items() if samples or name != "temperature"}
    return {"do_sample": samples, **fields}


def described(sampling: DefaultSampling) -> str:
    """For one line of text."""
    return ", ".join(f"{field} {value:g}" for field, value in sampling.items())


def _checked(values: Mapping[str, object], name: str) -> DefaultSampling:
    found: DefaultSampling = {}
    for field, value in values.items():
        if value is None:
            continue
        first, last, allowed = _RANGES[field]
        kinds = (int,) if field == "top_k" else (int, float)
        if type(value) not in kinds or not first <= value <= last:  # type: ignore[operator]
            log.warning("%s: %s %.40r is not used; allowed are %s", name, field, value, allowed)
        elif field == "top_k":
            found[field] = max(value, 0)  # type: ignore[call-overload]  # -1 and 0: off
        else:
            found[field] = float(str(np.float32(value)))  # type: ignore[arg-type]  # 0.95 again
    return found
