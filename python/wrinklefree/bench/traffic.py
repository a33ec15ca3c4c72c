"""What a step of the engine reads from memory, computed from its sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def step_bytes(
    info: Mapping[str, Any], *, rows: int, positions: float, outputs: int, rescored: float = 0
) -> float:
    """Bytes of weights, keys and values that one step reads.

    `info` is Model.info. `rows` tokens go through the layers and `outputs` of them through the
    head, which computes `rescored` logits of each a second time where it is screened; attention
    reads the keys and values of `positions` tokens in all. Weights are read once a pass, rows of
    the embedding not counted.
    """
    layers = math.ceil(rows / info["rows_per_pass"]) * info["layer_weight_bytes"]
    head_passes = math.ceil(outputs / info["head_rows_per_pass"])
    if info["head"] == "screened":
        row_bytes = info["head_weight_bytes"] / info["vocab_size"]
        head = head_passes * info["head_screen_bytes"] + outputs * rescored * row_bytes
    else:
        head = head_passes * info["head_weight_bytes"]
    return float(layers + head + positions * info["kv_bytes_per_token"])


def prefill_bytes(info: Mapping[str, Any], prompt: int) -> float:
    """Of a prompt of that many tokens: each pass reads what is in the cache once."""
    chunk = info["rows_per_pass"]
    positions = sum(min(start + chunk, prompt) for start in range(0, prompt, chunk))
    return step_bytes(info, rows=prompt, positions=positions, outputs=1)
