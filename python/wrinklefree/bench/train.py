"""Training steps of a random model, measured: ternary beside the float model it came from."""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from wrinklefree.bench.eager_bitlinear import use_eager_
from wrinklefree.bench.shapes import Model
from wrinklefree.data.loader import Batch
from wrinklefree.errors import UsageError
from wrinklefree.models.quant_config import QuantConfig
from wrinklefree.models.surgery import quantize_, set_int8_grad, set_lambda
from wrinklefree.training.allocator import keep_freed_memory
from wrinklefree.training.forward import decode, head_input
from wrinklefree.training.head_loss import head_losses

RAMP_LAMBDA = 0.5
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """What to run: `steps` timed steps of each variant, in turns, on batch x length tokens."""

    shape: Model
    threads: int
    batch: int = 8
    length: int = 128
    steps: int = 5
    profile: str | None = None  # a variant whose operators are listed


def bench_train(plan: TrainPlan) -> dict[str, Any]:
    """Medians over the steps, tokens/s; peak resident memory in MiB while each variant trains.

    All variants are one model with the same parameters, optimizer (fused AdamW), attention, head
    loss, batch and bfloat16 autocast, nothing compiled; a step is forward, backward, clipping and
    update, as the trainer does it. They differ in the linear layers alone: `plain_bf16` has
    torch's, `qat` those of the package at lambda 1, `qat_int8_grad` with int8 input gradients too,
    `qat_ramp` at lambda 0.5, `qat_eager` the same quantizers as eager torch; all but `plain_bf16`
    have SubLN norms. Where torchao is installed, `qat_torchao` is its prototype of BitNet training:
    weights and gradients in bfloat16, as it needs, no SubLN.
    `*_over_plain` is the median of the time of a step over that of the plain one of its round.
    """
    keep_freed_memory()
    torch.set_num_threads(plan.threads)
    torch.manual_seed(0)
    models = _variants(plan.shape)
    optimizer = torch.optim.AdamW(models["qat"].parameters(), lr=1e-5, fused=True)
    batch = _random_batch(plan)
    runs = {name: partial(_step, model, batch, optimizer) for name, model in models.items()}
    if importlib.util.find_spec("torchao") is not None:
        other = torchao_model(models["plain_bf16"])
        runs["qat_torchao"] = partial(
            _step, other, batch, torch.optim.AdamW(other.parameters(), lr=1e-5)
        )
    elif plan.profile == "qat_torchao":
        raise UsageError('--profile qat_torchao needs torchao: pip install "wrinklefree[peers]"')
    peaks = {name: _peak_mib(run) for name, run in runs.items()}  # the first call is the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(plan.steps):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)

    tokens = plan.batch * plan.length
    plain = seconds["plain_bf16"]
    ternary = [name for name in runs if name != "plain_bf16"]
    result: dict[str, Any] = {
        "shape": plan.shape.name,
        "batch": plan.batch,
        "length": plan.length,
        "threads": plan.threads,
        "steps": plan.steps,
        **{f"{name}_tok_s": round(tokens / statistics.median(seconds[name]), 1) for name in runs},
        **{
            f"{name}_over_plain": round(
                statistics.median(a / b for a, b in zip(seconds[name], plain, strict=True)), 3
            )
            for name in ternary
        },
        "peak_rss_mib": peaks["qat"],
        "plain_bf16_peak_rss_mib": peaks["plain_bf16"],
    }
    if plan.profile is not None:
        with profile() as profiler:
            runs[plan.profile]()
        averages = profiler.key_averages()
        result["profile"] = averages.table(sort_by="self_cpu_time_total", row_limit=30)
    return result


def _variants(shape: Model) -> dict[str, PreTrainedModel]:
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
    )
    plain = LlamaForCausalLM(config).train()
    ternary = _with_shared_parameters(plain)
    quantize_(ternary, QuantConfig())
    int8_grad, ramp, eager = (_with_shared_parameters(ternary) for _ in range(3))
    set_int8_grad(int8_grad, True)
    set_lambda(ramp, RAMP_LAMBDA)
    use_eager_(eager)
    return {
        "plain_bf16": plain,
        "qat": ternary,
        "qat_int8_grad": int8_grad,
        "qat_ramp": ramp,
        "qat_eager": eager,
    }


def _with_shared_parameters(model: LlamaForCausalLM) -> LlamaForCausalLM:
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def torchao_model(plain: PreTrainedModel) -> PreTrainedModel:
    """The model with torchao's BitNet weights in its layers; the head stays as it is."""
    from torchao.prototype.quantized_training import bitnet_training
    from torchao.quantization import quantize_ as torchao_quantize_

    model = copy.deepcopy(plain).bfloat16()
    torchao_quantize_(model.base_model, bitnet_training())
    return model


def _random_batch(plan: TrainPlan) -> Batch:
    shape = (plan.batch, plan.length)
    tokens_BL = torch.randint(0, plan.shape.vocab, shape)
    return Batch(
        tokens_BL=tokens_BL,
        targets_BL=tokens_BL.roll(-1, dims=1),
        documents_BL=torch.zeros(shape, dtype=torch.int64),
        positions_BL=torch.arange(plan.length).repeat(plan.batch, 1),
        row_indices=tuple(range(plan.batch)),
    )


def _step(model: PreTrainedModel, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_PD = decode(model, batch).last_BLD.flatten(0, 1)
        targets_P = batch.targets_BL.flatten()
        loss, _ = head_losses(
            head_input(model, hidden_PD), targets_P, ce_scale=1 / targets_P.numel()
        )
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _peak_mib(run: Callable[[], None]) -> float:
    """Peak resident memory of a run; where Linux cannot reset it, that of the process so far."""
    if not _CLEAR_REFS.exists():
        run()
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    # What the variant before has freed must not count as this one's.
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    _CLEAR_REFS.write_text("5")
    run()
    fields = dict(line.split(":") for line in _STATUS.read_text().splitlines())
    return round(int(fields["VmHWM"].split()[0]) / 1024, 1)
