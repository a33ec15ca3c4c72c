"""The model a stage starts from, and the file identity that its artifact names as parent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrinklefree.configs.config import ModelConfig
from wrinklefree.errors import UsageError
from wrinklefree.models.checkpoint import is_artifact, load_artifact
from wrinklefree.models.manifest import STATE_DIR, artifact_hash
from wrinklefree.models.surgery import quant_config_of
from wrinklefree.models.teacher import load_teacher
from wrinklefree.training import continuity


@dataclass(frozen=True, slots=True)
class Student:
    """A loaded model; `parent` is the hash of the artifact it came from, if it was one."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    parent: str | None


def parent_hash(config: ModelConfig) -> str | None:
    """Identity of the artifact at model.path; None for a plain directory or hub id."""
    return artifact_hash(config.path) if is_artifact(config.path) else None


def load_float(config: ModelConfig) -> Student:
    """A float model: the start of teacher_sft, bitnet_sft and stage1_subln."""
    _check_finished(config)
    model, tokenizer = load_teacher(config.path, revision=config.revision)
    return Student(model, _present(tokenizer, config), parent_hash(config))


def load_ternary(config: ModelConfig) -> Student:
    """The artifact of an earlier stage, checked to be what that stage ended with.

    Raises UsageError for a float model, VerificationError when continuity is broken.
    """
    if Path(config.path).is_dir() and not is_artifact(config.path):
        raise _not_ternary(config)
    _check_finished(config)
    loaded = load_artifact(config.path)
    if quant_config_of(loaded.model) is None:
        raise _not_ternary(config)
    recorded = loaded.manifest.metrics.get(continuity.METRIC)
    if recorded is not None:
        continuity.verify(loaded.model, recorded, config.path)
    return Student(loaded.model, _present(loaded.tokenizer, config), parent_hash(config))


def _check_finished(config: ModelConfig) -> None:
    if (Path(config.path) / STATE_DIR).is_dir():
        raise UsageError(
            f"model.path={config.path} is an interrupted run; give its command again to finish it"
        )


def _not_ternary(config: ModelConfig) -> UsageError:
    return UsageError(
        f"model.path={config.path} is a float model; this stage needs the artifact of "
        "training=stage1_subln or a later stage"
    )


def _present(
    tokenizer: PreTrainedTokenizerBase | None, config: ModelConfig
) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        raise UsageError(f"model.path={config.path} has no tokenizer files; training needs them")
    return tokenizer
