"""Does a written GGUF file say what its source says? Tensors, token ids, logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HfTokenizer

from wrinklefree import _engine
from wrinklefree.convert.codec import decode, stored_scale
from wrinklefree.convert.corpus import STRINGS
from wrinklefree.convert.plan import Plan, PlannedTensor
from wrinklefree.convert.to_gguf import Progress, file_ternary, silent, tensor_bytes
from wrinklefree.engine import LLM
from wrinklefree.engine.tokenizer import Tokenizer
from wrinklefree.errors import VerificationError

# Mean KL(source || file) in nats, activations unquantized. The file differs from the source by the
# float16 rounding of scales and embeddings only: measured 1e-8 to 1e-6. A swapped matrix, a wrong
# rotary order or a lost norm give 1e-2 and more.
_MAX_MEAN_KL = 1e-4
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
    wanted = file_ternary(plan, tensor)
    found = decode(raw, tensor.type, tensor.shape, tensor.gguf_name)
    scale = stored_scale(wanted, tensor.type, tensor.gguf_name)
    has_weights = bool(wanted.codes.any())  # the scale of an all-zero matrix says nothing
    return np.array_equal(found.codes, wanted.codes) and (found.scale == scale or not has_weights)


def verify_tokens(directory: Path, path: Path) -> int:
    """Compares token ids of the file's tokenizer with those of tokenizer.json; returns the number
    of strings. Raises VerificationError with the first string that differs."""
    ours = Tokenizer.from_gguf(_engine.GgufFile(str(path)).metadata)
    theirs = HfTokenizer.from_file(str(directory / "tokenizer.json"))
    for text in STRINGS:
        found, wanted = ours.encode(text, add_special=True), theirs.encode(text).ids
        if found != wanted:
            raise VerificationError(
                f"the file's tokenizer gives {found} for {text!r}, tokenizer.json gives {wanted}"
            )
    return len(STRINGS)


def verify_logits(directory: Path, path: Path) -> LogitAgreement:
    """Runs source and file in the engine, without activation quantization (whose rounding would
    hide small errors behind chaotic ones). Raises VerificationError when they disagree."""
    with_ids = LLM(directory, act_quant=False)
    vocab = int(with_ids.info["vocab_size"])
    ids = _some_ids(with_ids.tokenizer, min(_NUM_LOGIT_TOKENS, with_ids.info["context_length"]))
    ids = [token for token in ids if token < vocab]
    wanted = _log_softmax(with_ids.logits(ids))
    with_ids.close()
    converted = LLM(path, act_quant=False)
    found = _log_softmax(converted.logits(ids))
    converted.close()
    agreement = _compare(wanted, found)
    if not agreement.mean_kl <= _MAX_MEAN_KL:
        raise VerificationError(
            f"logits of the written file differ from the source's: mean KL {agreement.mean_kl:.2g} "
            f"nats over {agreement.tokens} tokens (allowed: {_MAX_MEAN_KL:g})"
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


def _log_softmax(logits: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    values = np.asarray(logits, dtype=np.float64)
    values = values - values.max(-1, keepdims=True)
    shifted: np.ndarray = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return shifted
