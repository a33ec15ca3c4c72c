"""Does a written model say what its source says? Tensors, token ids, logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HfTokenizer

from wrinklefree import _engine
from wrinklefree.convert.codec import decode, stored_scale
from wrinklefree.convert.corpus import STRINGS
from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.hf_source import HfSource
from wrinklefree.convert.plan import Plan, PlannedTensor
from wrinklefree.convert.ternary_check import Ternary, quantize_master
from wrinklefree.convert.to_gguf import Progress, file_ternary, silent, tensor_bytes
from wrinklefree.engine import LLM
from wrinklefree.engine.tokenizer import Tokenizer
from wrinklefree.errors import FormatError, VerificationError

# Mean KL(source || file) in nats, activations unquantized. The file differs from the source by the
# float16 rounding of scales and embeddings only: measured 2e-5 on 30 layers. A swapped matrix, a
# wrong rotary order or a lost norm give 1e-2 and more.
_MAX_MEAN_KL = 1e-3
_NUM_LOGIT_TOKENS = 48


@dataclass(frozen=True, slots=True)
class LogitAgreement:
    """Engine on the file against engine on the source."""

    tokens: int
    mean_kl: float  # nats
    max_logprob_difference: float  # nats, over the source's five likeliest tokens per position


def verify_tensors(plan: Plan, path: Path, progress: Progress = silent) -> int:
    """Reads the file back and compares every tensor; returns how many.

    Codes must be equal, scales equal after the type's rounding, float tensors equal byte for byte.
    Raises VerificationError that lists every tensor that differs.
    """
    file = _engine.GgufFile(str(path))
    infos = {info.name: info for info in file.tensors}
    wrong = sorted(infos.keys() ^ {tensor.gguf_name for tensor in plan.tensors})
    for index, tensor in enumerate(plan.tensors):
        progress(index, len(plan.tensors), tensor.gguf_name)
        info = infos.get(tensor.gguf_name)
        if info is None:
            continue
        has_form = (info.type, tuple(info.shape)) == (tensor.type.name, tensor.shape)
        if not has_form or not _is_same(plan, tensor, file.read(tensor.gguf_name)):
            wrong.append(tensor.gguf_name)
    progress(len(plan.tensors), len(plan.tensors), "")
    if wrong:
        raise VerificationError(
            f"{len(wrong)} tensor(s) of the written file differ from the source: {', '.join(wrong)}"
        )
    return len(plan.tensors)


def _is_same(plan: Plan, tensor: PlannedTensor, raw: np.ndarray) -> bool:
    if not tensor.is_ternary:
        return np.array_equal(raw, tensor_bytes(plan, tensor))
    ternary = file_ternary(plan, tensor)
    scale = stored_scale(ternary, tensor.type, tensor.gguf_name)
    try:
        found = decode(raw, tensor.type, tensor.shape, tensor.gguf_name)
    except FormatError:  # bytes that are no ternary matrix at all
        return False
    return _equal(found, Ternary(ternary.codes, scale))


def verify_directory(source: GgufSource, directory: Path) -> int:
    """Compares every tensor of a directory with the file it comes from; returns how many.

    Masters must quantize to the file's codes and scale, other values must be equal. Raises
    VerificationError that lists every tensor that differs.
    """
    written = HfSource(directory)
    wrong = sorted(set(written.names) ^ set(source.names))
    for name in set(written.names) & set(source.names):
        values = written.read(name)
        if source.is_ternary_tensor(name):
            is_same = _equal(quantize_master(values), source.ternary(name))
        else:
            is_same = np.array_equal(values, source.values(name))
        if not is_same:
            wrong.append(name)
    if wrong:
        raise VerificationError(
            f"{len(wrong)} tensor(s) of the written directory differ: {', '.join(sorted(wrong))}"
        )
    return len(written.names)


def _equal(found: Ternary, wanted: Ternary) -> bool:
    """Equal codes and scale; the scale of an all-zero matrix says nothing."""
    return np.array_equal(found.codes, wanted.codes) and (
        found.scale == wanted.scale or not wanted.codes.any()
    )


def verify_tokens(directory: Path, path: Path) -> int:
    """Compares token ids of the file's tokenizer with those of tokenizer.json; returns the number
    of strings. Raises VerificationError with the first string that differs."""
    ours = Tokenizer.from_gguf(_engine.GgufFile(str(path)).metadata)
    theirs = HfTokenizer.from_file(str(directory / "tokenizer.json"))
    for text in STRINGS:
        found = ours.encode(text, add_special=True, parse_special=True)
        wanted = theirs.encode(text).ids
        if found != wanted:
            raise VerificationError(
                f"the file's tokenizer gives {found} for {text!r}, tokenizer.json gives {wanted}"
            )
    return len(STRINGS)


def verify_logits(source: Path, written: Path) -> LogitAgreement:
    """Runs both models in the engine, without activation quantization (whose rounding would hide
    small errors behind chaotic ones). Raises VerificationError when they disagree."""
    with LLM(source, act_quant=False) as llm:
        ids = _some_ids(llm.tokenizer, min(_NUM_LOGIT_TOKENS, llm.info["context_length"]))
        wanted = _log_softmax(llm.logits(ids))
    with LLM(written, act_quant=False) as llm:
        found = _log_softmax(llm.logits(ids))
    agreement = _compare(wanted, found)
    if not agreement.mean_kl <= _MAX_MEAN_KL:
        raise VerificationError(
            f"logits of the written model differ from the source's: mean KL "
            f"{agreement.mean_kl:.2g} nats over {agreement.tokens} tokens "
            f"(allowed: {_MAX_MEAN_KL:g})"
        )
    return agreement


def _some_ids(tokenizer: Tokenizer, count: int) -> list[int]:
    ids: list[int] = []
    for text in STRINGS:
        ids += tokenizer.encode(text, add_special=not ids)
        if len(ids) >= count:
            break
    return ids[:count]


def _compare(wanted: np.ndarray, found: np.ndarray) -> LogitAgreement:
    kl = (np.exp(wanted) * (wanted - found)).sum(-1)
    top = np.argsort(-wanted, axis=-1)[:, :5]
    difference = np.take_along_axis(wanted - found, top, axis=-1)
    return LogitAgreement(len(wanted), float(kl.mean()), float(np.abs(difference).max()))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    shifted: np.ndarray = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return shifted
