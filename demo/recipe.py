"""What each stage of the chain is given: one recipe for the real model, one for the tiny one."""

from __future__ import annotations

from dataclasses import dataclass

# Label word of each topic: one token with its leading space in the tokenizer of SmolLM2.
TOPIC_WORDS = {
    "People": "People",
    "Biology and health sciences": "Biology",
    "Geography": "Geography",
    "Physical sciences": "Physics",
    "Society and social sciences": "Society",
    "Arts": "Arts",
    "Technology": "Technology",
    "History": "History",
    "Everyday life": "Life",
    "Philosophy and religion": "Religion",
    "Mathematics": "Mathematics",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of `wf-train` for each stage, and the sizes of the task.

    Settings of the loop of a stage are KEY=VALUE arguments without their `training.` prefix; a
    stage without settings is left out.
    """

    name: str
    disk_mb: int
    minutes: int
    prompt_tokens: int
    held_out: int
    perplexity_windows: int
    calibration: tuple[str, ...]
    sft: tuple[str, ...]
    distill: tuple[str, ...]
    bitnet: tuple[str, ...]
    layerwise: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()
    answer_tokens: int = 1  # of the longest answer of the task
    row_tokens: int = 32  # of corpus text


SCHEDULE = ("warmup=.05", "schedule=cosine", "final_lr=.1", "beta2=.98", "eval_every=0")
FROZEN = ("freeze=[embed]",)

SMOLLM2 = Recipe(
    name="SmolLM2-135M",
    disk_mb=3000,
    minutes=20,
    prompt_tokens=14,
    held_out=500,
    perplexity_windows=40,
    calibration=("calibration_batches=8", "batch_size=4"),
    sft=("steps=40", "batch_size=16", "lr=2e-4", *SCHEDULE, *FROZEN),
    # Stages 1.9 and 2 want far more steps than fit here (docs/lab-notes.md).
    distill=(
        *("steps=80", "batch_size=16", "lr=3e-4", *SCHEDULE, *FROZEN),
        *("calibration_rows=512", "kd_weight=1", "kd_tau=1", "layerwise_weight=.2"),
        *("gamma=0", "cache_teacher=false"),
    ),
    bitnet=("steps=80", "batch_size=16", "lr=5e-4", *SCHEDULE, *FROZEN),  # as many steps
)

TINY = Recipe(
    name="stories260K",
    disk_mb=50,
    minutes=3,
    answer_tokens=3,
    prompt_tokens=12,
    held_out=40,
    perplexity_windows=8,
    calibration=("calibration_batches=4", "batch_size=4"),
    sft=("steps=12", "batch_size=8", "lr=1e-3", *SCHEDULE),
    layerwise=("steps=12", "batch_size=8", "lr=2e-3", *SCHEDULE, "calibration_rows=64"),
    pretrain=("steps=12", "batch_size=8", "lr=2e-3", *SCHEDULE),
    distill=(
        *("steps=12", "batch_size=8", "lr=1e-3", *SCHEDULE),
        *("kd_weight=1", "kd_tau=2", "gamma=10", "split_heads=8"),
    ),
    bitnet=("steps=36", "batch_size=8", "lr=1e-3", *SCHEDULE),
)
