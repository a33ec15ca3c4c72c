"""Do two models say the same? Their logits and their perplexity in the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wrinklefree.convert.codec import is_exact
from wrinklefree.convert.corpus import STRINGS
from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.hf_source import HfSource
from wrinklefree.convert.plan import Plan, PlannedTensor
from wrinklefree.convert.source import Source
from wrinklefree.convert.to_gguf import write_gguf
from wrinklefree.convert.types import BF16, F32, Q4_0, Q6_K, Q8_0
from wrinklefree.engine import LLM
from wrinklefree.engine.tokenizer import Tokenizer
from wrinklefree.errors import VerificationError
from wrinklefree.eval.engine_backend import EngineBackend
from wrinklefree.eval.perplexity import PerplexityTask

# Mean KL(source || file) in nats, activations unquantized. The file differs from the source by the
# float16 rounding of scales and embeddings only: measured 2e-5 on 30 layers. A swapped matrix, a
# wrong rotary order or a lost norm give 1e-2 and more.
_MAX_MEAN_KL = 1e-3
_NUM_LOGIT_TOKENS = 48
# Activations quantized, as the models are served: their rounding is chaotic, so two runs of one
# model in different float orders differ by tenths of a percent.
_MAX_PERPLEXITY_CHANGE = 0.01


@dataclass(frozen=True, slots=True)
class LogitAgreement:
    """Engine on the file against engine on the source."""

    tokens: int
    mean_kl: float  # nats
    max_logprob_difference: float  # nats, over the source's five likeliest tokens per position


@dataclass(frozen=True, slots=True)
class PerplexityAgreement:
    """Perplexity of both models on one text, each in its own tokens."""

    tokens: int
    source: float
    written: float

    @property
    def change(self) -> float:
        """Relative: 0.01 is a written model that is 1 % worse."""
        return self.written / self.source - 1


def engine_limit(source: Source) -> str | None:
    """Why the engine cannot compare the source's logits with the result's, or None if it can."""
    if source.is_ternarized:
        return "the source is a float model, the result a ternary one"
    if isinstance(source, GgufSource) and source.i2s_group != 128:
        return "the engine reads I2_S in groups of 128 only"
    if isinstance(source, HfSource) and source.is_unpacked:
        return "the engine reads codes of BitNet checkpoints only where they are packed"
    return None


def verify_logits(source: Path, written: Path) -> LogitAgreement:
    """Raises VerificationError when the logits of both models disagree."""
    agreement = compare_logits(source, written)
    if not agreement.mean_kl <= _MAX_MEAN_KL:
        raise VerificationError(
            f"logits of the written model differ from the source's: mean KL "
            f"{agreement.mean_kl:.2g} nats over {agreement.tokens} tokens "
            f"(allowed: {_MAX_MEAN_KL:g})"
        )
    return agreement


def verify_logits_but_embeddings(plan: Plan, path: Path) -> LogitAgreement:
    """`verify_logits` for a file whose embedding or head is rounded to few bits, as was asked.

    That rounding moves logits more than a mistake would. So a second file, equal but for a float32
    embedding and removed again, is what must agree with the source; the result is how far `path`
    itself is from it.
    """
    exact = replace(plan, tensors=[_unrounded(tensor) for tensor in plan.tensors])
    second = path.with_name(f"{path.stem}-exact.gguf")
    try:
        write_gguf(exact, second)
        verify_logits(plan.source.path, second)
        return compare_logits(second, path)
    finally:
        second.unlink(missing_ok=True)


def rounds_embeddings(plan: Plan) -> bool:
    """Whether an embedding or a head loses something in its type (more than float16 does)."""
    return any(
        _is_rounded_type(tensor) and not is_exact(plan.source.read(tensor.hf_name), tensor.type)
        for tensor in plan.tensors
    )


def _is_rounded_type(tensor: PlannedTensor) -> bool:
    return not tensor.is_ternary and tensor.type in (Q4_0, Q6_K, Q8_0, BF16)


def _unrounded(tensor: PlannedTensor) -> PlannedTensor:
    return replace(tensor, type=F32) if _is_rounded_type(tensor) else tensor


def verify_perplexity(source: Path, written: Path, text: str) -> PerplexityAgreement:
    """Raises VerificationError when the perplexities of both models on `text` disagree."""
    agreement = compare_perplexity(source, written, text)
    if not abs(agreement.change) <= _MAX_PERPLEXITY_CHANGE:
        raise VerificationError(
            f"perplexity of the written model is {agreement.written:.5g}, of the source "
            f"{agreement.source:.5g} on {agreement.tokens} tokens "
            f"(allowed: {_MAX_PERPLEXITY_CHANGE:.0%} apart)"
        )
    return agreement


def compare_perplexity(source: Path, written: Path, text: str) -> PerplexityAgreement:
    """As wf-eval measures it, with quantized activations."""
    found = []
    for model in (source, written):
        backend = EngineBackend(model)
        try:
            task = PerplexityTask("text", [text])
            outcome = task.run(backend, context=None, batch=1, progress=lambda done, total: None)
        finally:
            backend.close()
        nats = next(metric for metric in outcome.metrics if metric.name == "nats_per_token")
        found.append((outcome.counts.tokens, math.exp(nats.value)))
    (tokens, of_source), (_, of_written) = found
    return PerplexityAgreement(tokens, of_source, of_written)


def compare_logits(source: Path, written: Path) -> LogitAgreement:
    """Runs both models in the engine on the same tokens, without activation quantization, whose
    rounding would hide small errors behind chaotic ones."""
    with LLM(source, act_quant=False) as llm:
        ids = _some_ids(llm.tokenizer, min(_NUM_LOGIT_TOKENS, llm.info["context_length"]))
        wanted = _log_softmax(llm.logits(ids))
    with LLM(written, act_quant=False) as llm:
        found = _log_softmax(llm.logits(ids))
    kl = (np.exp(wanted) * (wanted - found)).sum(-1)
    top = np.argsort(-wanted, axis=-1)[:, :5]
    difference = np.take_along_axis(wanted - found, top, axis=-1)
    return LogitAgreement(len(wanted), float(kl.mean()), float(np.abs(difference).max()))


def _some_ids(tokenizer: Tokenizer, count: int) -> list[int]:
    ids: list[int] = []
    for text in STRINGS:
        ids += tokenizer.encode(text, add_special=not ids)
        if len(ids) >= count:
            break
    return ids[:count]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    shifted: np.ndarray = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return shifted
