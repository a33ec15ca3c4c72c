"""The schema of a training run: one frozen dataclass per config group, the only list of keys.

YAML files and command-line overrides are validated against these classes (configs/build.py);
help texts and ranges live in the field metadata.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def knob(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A field with a default, its help text and an inclusive range for numbers."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


def required(help: str) -> Any:
    """A field that the user must give."""
    return field(metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model a stage starts from."""

    path: str = required("artifact or Hugging Face directory, or a hub id")
    revision: str | None = knob(None, "hub revision of `path`")
    subln: Literal["subln", "all", "none"] = knob(
        "subln", "where stage1_subln inserts norms: before o_proj and down_proj, all linears, none"
    )


Format = Literal[
    "text", "sft", "choice", "chat", "summary", "sst2", "cola", "mrpc", "rte", "qnli", "mnli"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """One source of a mixture."""

    path: str = required("file, directory or glob, or the hub id of a data set")
    format: Format = knob("text", "record format, see docs/training.md")  # noqa: RUF009
    weight: float = knob(1.0, "share of the rows, relative to the other sources", low=0.0)
    limit: int | None = knob(None, "use only the first so many records", low=1)
    text_field: str = knob("text", "field that holds the text of a text record")
    subset: str | None = knob(None, "hub configuration name")
    split: str = knob("train", "hub split")
    revision: str | None = knob(None, "hub revision of `path`")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The records a stage trains on: one source, or a mixture of several."""

    path: str | None = knob(None, "file, directory or glob, or the hub id of a data set")
    format: Format = knob("text", "record format, see docs/training.md")  # noqa: RUF009
    max_length: int = knob(512, "tokens per row; a longer record that is not cut is skipped", low=2)
    limit: int | None = knob(None, "use only the first so many records", low=1)
    text_field: str = knob("text", "field that holds the text of a text record")
    subset: str | None = knob(None, "hub configuration name")
    split: str = knob("train", "hub split")
    revision: str | None = knob(None, "hub revision of `path`")
    mixture: tuple[SourceConfig, ...] | None = knob(
        None, "several sources in place of `path`, each with its keys and a weight"
    )
    streaming: bool | None = knob(
        None, "tokenize while training; default: for a mixture and for text from the hub"
    )
    workers: int = knob(2, "processes that tokenize a stream; 0: the trainer itself", low=0)
    eval_path: str | None = knob(None, "evaluation records; default: rows held out of `path`")
    eval_rows: int | None = knob(
        None,
        "rows that are evaluated: by default all of `eval_path`, or 32 held out; 0: none",
        low=0,
    )

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """The mixture, or the one source."""
        return self.mixture if self.mixture is not None else (self.source(self.path or ""),)

    def source(self, path: str) -> SourceConfig:
        """`path`, read as the keys of this group say."""
        return SourceConfig(
            path=path,
            format=self.format,
            limit=self.limit,
            text_field=self.text_field,
            subset=self.subset,
            split=self.split,
            revision=self.revision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SublnConfig:
    """Stage 1: quantizers and calibrated SubLN are inserted at lambda 0; no gradient."""

    stage: Literal["stage1_subln"] = required("name of the stage")
    calibration: Literal["least_squares", "median_rms", "mean_rms", "unit"] = knob(
        "least_squares", "how SubLN gains are set from calibration activations"
    )
    calibration_batches: int = knob(8, "batches used for calibration", low=1)
    batch_size: int = knob(4, "rows per calibration batch", low=1)
    seed: int = knob(0, "seed of the data order", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientConfig:
    """A stage with a training loop. Loss normalisations are stated in docs/training.md."""

    stage: Literal[
        "teacher_sft", "bitnet_sft", "stage1_9_layerwise", "stage2_pretrain", "stage3_distill"
    ] = required("name of the stage")
    teacher: str | None = knob(None, "float model to distil from: directory or hub id")
    teacher_revision: str | None = knob(None, "hub revision of `teacher`")
    cache_teacher: bool = knob(False, "keep teacher outputs on disk and reuse them")

    steps: int | None = knob(None, "optimizer steps; default: from `epochs`", low=1)
    epochs: float = knob(1.0, "passes over the data when `steps` is not given", low=0.001)
    batch_size: int = knob(8, "rows per forward pass", low=1)
    accumulation: int = knob(1, "forward passes per optimizer step", low=1)

    lr: float = knob(1e-4, "peak learning rate", low=0.0)
    gains_lr_multiplier: float = knob(1.0, "factor on `lr` for norm and SubLN gains", low=0.0)
    schedule: Literal["constant", "cosine", "wsd"] = knob("cosine", "shape after the warm-up")
    warmup: float = knob(0.05, "share of the steps with rising learning rate", low=0.0, high=1.0)
    decay: float = knob(0.2, "share of the steps that decay in schedule wsd", low=0.0, high=1.0)
    final_lr: float = knob(0.0, "learning rate at the end as a share of `lr`", low=0.0, high=1.0)
    weight_decay: float = knob(0.0, "decoupled decay of matrices; norms have none", low=0.0)
    weight_decay_until: float = knob(
        1.0, "share of the steps after which weight decay is off", low=0.0, high=1.0
    )
    optimizer: Literal["adamw", "muon"] = knob(
        "adamw", "muon: for the matrices inside layers; AdamW for the rest"
    )
    beta2: float = knob(0.999, "AdamW second-moment decay", low=0.0, high=0.99999)
    momentum: float = knob(0.95, "Muon momentum", low=0.0, high=0.99999)
    max_grad_norm: float = knob(1.0, "gradient norm is clipped to this", low=1e-9)
    zclip: float = knob(
        0.0, "also clip norms so many standard deviations above the usual; 0: off", low=0.0
    )
    zclip_warmup: int = knob(25, "steps that show zclip what is usual", low=2)
    qk_clip: float = knob(
        0.0, "query and key weights shrink in heads with larger logits; 0: off", low=0.0
    )
    freeze: tuple[Literal["embed", "norms"], ...] = knob((), "parameters that stay as they are")

    calibration_rows: int = knob(
        0, "rows on which master weights are solved for lambda 1 before the first step", low=0
    )
    lambda_ramp: float = knob(
        0.0, "share of the steps in which lambda rises linearly to 1", low=0.0, high=1.0
    )

    ce_weight: float = knob(1.0, "weight of the label cross-entropy", low=0.0)
    kd_weight: float = knob(0.0, "weight of the logit KL", low=0.0)
    kd_tau: float = knob(5.0, "softmax temperature of the logit KL", low=0.01)
    kd_positions: Literal["labels", "all"] = knob("labels", "positions of the logit KL")
    gamma: float = knob(0.0, "weight of the attention-relation loss", low=0.0)
    relation_layers: tuple[int, ...] | None = knob(
        None, "layers of the relation loss; default: one late layer, 0.8 of the depth"
    )
    relation_normalisation: Literal["bitdistill", "mean"] = knob(
        "bitdistill", "mean: over rows and heads; bitdistill: divided by the heads once more"
    )
    split_heads: int = knob(32, "heads that relation states are split into", low=1)
    layerwise_weight: float = knob(0.0, "weight of the hidden-state loss", low=0.0)
    layer_weighting: Literal["uniform", "late"] = knob(
        "uniform", "weights of the layers in the hidden-state loss; late: proportional to depth"
    )

    int8_grad: bool = knob(
        False, "pass gradients on as int8 codes, rounded at random, once lambda is 1 (CPU)"
    )
    seed: int = knob(0, "seed of the data order and of torch", low=0)
    eval_every: int = knob(100, "steps between evaluations; 0: only first and last", low=0)
    sample_every: int = knob(0, "steps between texts that the model writes; 0: never", low=0)
    sample_prompts: tuple[str, ...] = knob(
        (), "what these texts begin with; default: openings of the data"
    )
    sample_tokens: int = knob(32, "tokens of such a text", low=1)
    save_every: int = knob(500, "steps between checkpoints; 0: only when interrupted", low=0)
    dtype: Literal["auto", "float32", "bfloat16"] = knob(
        "auto", "compute type; auto: bfloat16 autocast where the hardware has it"
    )
    activation_checkpointing: bool = knob(
        False, "compute activations again in the backward pass: less memory, same numbers"
    )
    compile: bool = knob(False, "torch.compile the layers from the step on where lambda is 1")
    peak_tflops: float | None = knob(
        None, "peak that MFU is relative to; default: measured with a matrix product", low=1e-6
    )
    shares_every: int = knob(
        0, "steps between logs of each loss term's share of the gradient; 0: never", low=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedConfig:
    """How many processes train together."""

    kind: Literal["single", "ddp", "fsdp2"] = knob(
        "single", "one process; those of torchrun, each with a copy of the model (ddp) or a shard"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One wf-train run."""

    model: ModelConfig
    data: DataConfig
    training: SublnConfig | GradientConfig
    distributed: DistributedConfig
    out: str = required("directory of the artifact that the run makes")
    tracking: tuple[Literal["tensorboard", "wandb"], ...] = knob(
        (), "services that get the metrics too (the extra `track`)"
    )
    resume: Literal["auto", "never"] = knob("auto", "continue an interrupted run in `out`")


GROUPS = ("model", "training", "data", "distributed")
