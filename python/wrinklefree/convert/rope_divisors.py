"""RoPE scaling of Llama 3.1 and later: a formula in config.json, divisors of frequencies in GGUF.

A file holds `rope_freqs.weight`, float32 [head_dim / 2]: frequency i is divided by entry i, as
llama.cpp's converter writes it. The formula is that of transformers' `rope_type: llama3`: waves
longer than original / low_freq_factor are stretched by `factor`, those shorter than original /
high_freq_factor stay, between them the frequency goes over linearly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from wrinklefree.errors import FormatError

TENSOR = "rope_freqs.weight"
# Of every Llama from 3.1 to 3.3; `factor` differs and is the largest divisor.
_RELEASED = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def divisors(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """float32 [head_dim / 2] of rope parameters of type llama3."""
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    factor, original = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    if not (high > low > 0 and factor >= 1 and original > 0):
        raise FormatError(f"rope_type llama3 with impossible values: {dict(rope)}")
    exponents = np.arange(0, head_dim, 2) / head_dim
    turns = original * float(rope["rope_theta"]) ** -exponents / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / (kept + (1 - kept) / factor)).astype(np.float32)


def parameters_of(found: np.ndarray, theta: float, head_dim: int) -> dict[str, Any]:
    """Rope parameters whose divisors are `found`. Raises FormatError for values that no released
    Llama has: a tensor does not say which formula made it."""
    rope = {"rope_type": "llama3", "rope_theta": theta, "factor": float(found.max()), **_RELEASED}
    if found.shape != (head_dim // 2,) or not np.allclose(
        found, divisors(rope, head_dim), rtol=1e-5, atol=0
    ):
        raise FormatError(
            f"{TENSOR} is not the RoPE scaling of Llama 3.1 to 3.3 (factors 1 and 4, 8192 tokens), "
            "the only one that config.json can be given from it"
        )
    return rope
