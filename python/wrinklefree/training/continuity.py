"""Hand-over between stages: the next stage must start exactly where the last one ended.

At its end a stage measures the cross-entropy of its model on a few fixed tokens and writes both
into wrinklefree.json; the next stage measures again, at the same lambda, before its first step.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from wrinklefree.data.packing import TokenRows
from wrinklefree.errors import FormatError, VerificationError
from wrinklefree.models.surgery import quantized_once
from wrinklefree.training.forward import device_of

METRIC = "continuity"  # key in the manifest's metrics
PROBE_ROWS = 4
PROBE_LENGTH = 64
TOLERANCE = 1e-6  # float32, the same machine and libraries
# Another CPU or torch sums in another order, and int8 rounding turns last bits into code flips.
TOLERANCE_ELSEWHERE = 1e-2


def probe_tokens(rows: TokenRows) -> list[list[int]]:
    """The first few rows, cut to a length that costs nothing."""
    picked = (rows.row(index)[0][:PROBE_LENGTH].tolist() for index in range(len(rows)))
    return [tokens for tokens, _ in zip(picked, range(PROBE_ROWS), strict=False) if len(tokens) > 1]


@torch.no_grad()
def probe_cross_entropy(model: PreTrainedModel, tokens: list[list[int]]) -> float:
    """Mean next-token cross-entropy in nats, in eval mode and float32, one row at a time."""
    was_training = model.training
    model.train(False)
    device = device_of(model)
    total, num_targets = 0.0, 0
    with quantized_once(model):
        for row in tokens:
            ids = torch.tensor([row], device=device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            num_targets += len(row) - 1
    model.train(was_training)
    return total / max(num_targets, 1)


def record(model: PreTrainedModel, tokens: list[list[int]]) -> dict[str, Any]:
    """The entry for the manifest; lambda is the artifact's own."""
    return {
        "cross_entropy": probe_cross_entropy(model, tokens),
        "tokens": tokens,
        "environment": environment(device_of(model)),
    }


def verify(model: PreTrainedModel, recorded: dict[str, Any], name: str) -> float:
    """The cross-entropy now. Raises VerificationError when the model is not the one recorded."""
    try:
        before = float(recorded["cross_entropy"])
        tokens = [[int(token) for token in row] for row in recorded["tokens"]]
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{name}: the continuity record in wrinklefree.json is damaged") from None
    now = probe_cross_entropy(model, tokens)
    is_same_place = recorded.get("environment") == environment(device_of(model))
    tolerance = TOLERANCE if is_same_place else TOLERANCE_ELSEWHERE
    if not math.isclose(now, before, rel_tol=tolerance, abs_tol=tolerance):
        raise VerificationError(
            f"{name}: cross-entropy on its recorded tokens is {now:.8f}, the stage that made it "
            f"ended with {before:.8f} (allowed difference {tolerance:g}): the weights, SubLN gains "
            "or lambda were not handed over intact; make the artifact again"
        )
    return now


def environment(device: torch.device | None = None) -> str:
    """What decides the last bits of a sum: torch, instruction set, threads, and the processor (a
    GPU too), whose kernels the libraries choose."""
    facts = [
        f"torch {torch.__version__}",
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        f"{torch.get_num_threads()} threads",
        *_processor(),
    ]
    if device is not None and device.type == "cuda":
        facts.append(torch.cuda.get_device_name(device))
    return ", ".join(facts)


def _processor() -> list[str]:
    """Vendor, family and model, where Linux tells them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    return [values[key] for key in ("vendor_id", "cpu family", "model") if key in values]
