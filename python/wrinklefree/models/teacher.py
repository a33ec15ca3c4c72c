"""load_teacher: a float model from a directory or the hub, safetensors only, no remote code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models.quant_config import QUANT_METHOD
from wrinklefree.models.weights import weight_files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def load_teacher(
    source: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Float model in eval mode and its tokenizer (None if the directory has none).

    source: a directory, or a hub id ("HuggingFaceTB/SmolLM2-135M") with an optional revision.
    Raises UsageError if it is neither here nor obtainable or is a ternary artifact, FormatError if
    its weights do not fit its configuration.
    """
    path = Path(source)
    if path.is_file():
        hint = (
            ": convert it with `wf-convert FILE.gguf DIR --to hf`" if path.suffix == ".gguf" else ""
        )
        raise UsageError(f"{source} is a file, a model directory is needed{hint}")
    if not path.is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
        raise UsageError(f"{source}: no such directory")
    model = load_strictly(source, revision=revision, dtype=dtype)
    quantization = getattr(model.config, "quantization_config", None)
    if isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD:
        raise UsageError(f"{source} is a ternary artifact, the teacher is a float model")
    return model, load_tokenizer(source, revision=revision)


def load_strictly(
    source: str | Path, *, revision: str | None = None, dtype: torch.dtype
) -> PreTrainedModel:
    """Causal model in eval mode; transformers' load warnings about tensors become a FormatError."""
    if Path(source).is_dir():
        weight_files(Path(source))
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision or "main",
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError) as error:
        raise _one_line(source, error) from error
    problems = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "wrong shape": sorted(name for name, *_ in report["mismatched_keys"]),
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{title}: {', '.join(keys)}" for title, keys in problems.items() if keys
        )
        raise FormatError(f"{source}: the weights do not fit the model: {listed}")
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def load_tokenizer(
    source: str | Path, *, revision: str | None = None
) -> PreTrainedTokenizerBase | None:
    """Tokenizer of a model directory or hub id; None for a directory without tokenizer files."""
    path = Path(source)
    if path.is_dir() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source, revision=revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise _one_line(source, error) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _one_line(source: str | Path, error: Exception) -> UsageError | FormatError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(source).is_dir():
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own, which is never run"
        return FormatError(f"{source} cannot be loaded: {reason}")
    return UsageError(
        f"{source} is neither a directory nor in the hub cache, and could not be downloaded; "
        f"on a machine with network run `hf download {source}` ({reason})"
    )
