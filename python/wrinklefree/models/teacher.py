"""load_teacher: a float model from a directory or the hub, safetensors only, no remote code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models.manifest import refuse_unfinished
from wrinklefree.models.surgery import quant_config_of
from wrinklefree.models.weights import weight_files

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
HUB_TIMEOUT_S = 10.0


def load_teacher(
    source: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Float model in eval mode and its tokenizer (None if the directory has none).

    source: a directory, or a hub id ("HuggingFaceTB/SmolLM2-135M") with an optional revision; what
    the hub cache holds is used without asking the network.
    Raises UsageError if it is neither here nor obtainable or is a ternary artifact, FormatError if
    its weights do not fit its configuration.
    """
    if Path(source).is_file():
        raise UsageError(
            f"{source} is a file, a model directory is needed; a .gguf becomes one with "
            "`wf-convert FILE.gguf DIR --to hf`"
        )
    if not Path(source).is_dir():
        _check_hub_id(str(source), revision)
    model = load_strictly(source, revision=revision, dtype=dtype)
    if quant_config_of(model) is not None:
        raise UsageError(f"{source} is a ternary artifact, the teacher is a float model")
    return model, load_tokenizer(source, revision=revision)


def load_strictly(
    source: str | Path, *, revision: str | None = None, dtype: torch.dtype
) -> PreTrainedModel:
    """Causal model in eval mode; transformers' load warnings about tensors become a FormatError."""
    if Path(source).is_dir():
        refuse_unfinished(source)
        weight_files(Path(source))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_safe_options(source, revision),
        )
    except (OSError, ValueError) as error:
        raise _load_error(source, error) from error
    model, report = loaded
    problems = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "wrong shape": sorted(name for name, *_ in report["mismatched_keys"]),
    }
    if any(problems.values()):
        listed = [f"{title}: {', '.join(names)}" for title, names in problems.items() if names]
        raise FormatError(f"{source}: the weights do not fit the model: {'; '.join(listed)}")
    assert isinstance(model, PreTrainedModel)
    return model


def load_tokenizer(
    source: str | Path, *, revision: str | None = None
) -> PreTrainedTokenizerBase | None:
    """Tokenizer of a model directory or hub id; None for a directory without tokenizer files."""
    path = Path(source)
    if path.is_dir() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_safe_options(source, revision))
    except (OSError, ValueError) as error:
        raise _load_error(source, error) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _safe_options(source: str | Path, revision: str | None) -> dict[str, Any]:
    is_here = Path(source).is_dir() or _is_cached(str(source), revision)
    return {
        "revision": revision or "main",
        "local_files_only": is_here,
        "trust_remote_code": False,
    }


def _is_cached(hub_id: str, revision: str | None) -> bool:
    return isinstance(try_to_load_from_cache(hub_id, "config.json", revision=revision), str)


def _check_hub_id(source: str, revision: str | None) -> None:
    """Ask the hub once: transformers itself retries for half a minute when there is no network."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", source):
        raise UsageError(f"{source}: no such directory")
    try:
        if not _is_cached(source, revision):
            HfApi().model_info(source, revision=revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # transport errors are those of whichever client the hub uses
        raise UsageError(
            f"{source}: no such directory, and not in the hub cache; if it is a hub id, run "
            f"`hf download {source}` on a machine with network ({_first_line(error)})"
        ) from error


def _load_error(source: str | Path, error: Exception) -> FormatError:
    needs_code = "trust_remote_code" in str(error)
    reason = "it needs code of its own, which is never run" if needs_code else _first_line(error)
    return FormatError(f"{source} cannot be loaded: {reason}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
