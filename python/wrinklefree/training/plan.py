"""What a run would do: steps, tokens, sizes, memory. Reads configuration and data, no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from wrinklefree.configs.config import DataConfig, GradientConfig, RunConfig
from wrinklefree.data.packing import TokenRows
from wrinklefree.errors import UsageError
from wrinklefree.models.teacher import load_tokenizer
from wrinklefree.training.distributed import check_division
from wrinklefree.training.head_loss import CHUNK_ROWS
from wrinklefree.training.inputs import Inputs, num_steps, open_inputs

FLOAT_BYTES = 4
# float32 tensors kept for backward per layer and token: about 16 of hidden width (norms, Q, K, V,
# attention, residuals, fake-quantized copies) and 6 of intermediate width (gate, up, product).
HIDDEN_COPIES, INTERMEDIATE_COPIES = 16, 6
LOGIT_COPIES = 3  # logits, log-softmax, gradient


def plan(config: RunConfig) -> dict[str, Any]:
    """JSON values. Raises UsageError for a model or data that the run could not read, and for
    settings that the started processes could not divide."""
    check_division(config)
    model_config = _model_config(config)
    model = _empty_model(model_config)
    tokenizer = load_tokenizer(config.model.path, revision=config.model.revision)
    if tokenizer is None:
        raise UsageError(f"model.path={config.model.path} has no tokenizer files")
    # The first rows of a stream are really read, so that a run does not find out what is amiss.
    training = config.training
    inputs = open_inputs(config.data, tokenizer, batch_size=training.batch_size, seed=training.seed)
    held_out = inputs.rows.evaluation
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts: dict[str, Any] = {
        "stage": config.training.stage,
        "model": config.model.path,
        "out": config.out,
        "parameters": parameters,
        **_data_facts(config.data, inputs.rows.train),
        "eval_rows": len(held_out) if held_out is not None else 0,
        "artifact_bytes": parameters * FLOAT_BYTES,
    }
    if isinstance(training, GradientConfig):
        facts |= _loop_facts(training, inputs, model_config, parameters)
    return facts


def _data_facts(data: DataConfig, rows: TokenRows | None) -> dict[str, Any]:
    if rows is None:
        sources = data.sources
        total = sum(source.weight for source in sources)
        return {
            "sources": [
                f"{source.weight / total:.1%} of the rows: {source.path} ({source.format})"
                for source in sources
            ],
            "workers": data.workers,
        }
    return {
        "rows": len(rows),
        "rows_skipped": rows.skipped,
        "rows_truncated": rows.truncated,
        "tokens_per_epoch": len(rows.tokens),
        "labels_per_epoch": rows.num_labels,
    }


def _loop_facts(
    training: GradientConfig, inputs: Inputs, model: PretrainedConfig, parameters: int
) -> dict[str, Any]:
    steps = num_steps(training, inputs.rows.train)
    batches = steps * training.accumulation
    # Of a stream the sample says how full its rows are.
    rows = inputs.sample
    total_tokens = batches * training.batch_size * len(rows.tokens) / len(rows)
    epochs: dict[str, Any] = {}
    if inputs.rows.train is not None:
        share = batches / -(-len(rows) // training.batch_size)
        total_tokens = len(rows.tokens) * share
        epochs = {"epochs": round(share, 3)}
    longest = int(rows.lengths.max())
    tokens = training.batch_size * longest
    per_token = model.num_hidden_layers * (
        HIDDEN_COPIES * model.hidden_size + INTERMEDIATE_COPIES * model.intermediate_size
    )
    labels = min(tokens, -(-rows.num_labels // len(rows)) * training.batch_size)
    logits = min(labels, CHUNK_ROWS) * model.vocab_size * LOGIT_COPIES
    # Masters, gradients and two moments; a teacher adds its weights.
    weights = parameters * (4 + (1 if training.teacher is not None else 0))
    return {
        "steps": steps,
        **epochs,
        "tokens": round(total_tokens),
        "teacher": training.teacher,
        "checkpoint_bytes": parameters * FLOAT_BYTES * 3,
        "memory_bytes_estimate": (weights + tokens * per_token + logits) * FLOAT_BYTES,
    }


def _model_config(config: RunConfig) -> PretrainedConfig:
    path, revision = config.model.path, config.model.revision or "main"
    try:
        loaded = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        kind = "has no readable config.json" if Path(path).is_dir() else "is no such directory"
        raise UsageError(f"model.path={path} {kind}: {reason}") from None
    assert isinstance(loaded, PretrainedConfig)
    return loaded


def _empty_model(config: PretrainedConfig) -> PreTrainedModel:
    # The norms of an artifact (thousands of values) are left out of the count.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    assert isinstance(model, PreTrainedModel)
    return model
