"""GGUF architectures, and which one computes what a Hugging Face model computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wrinklefree.errors import FormatError, nearest


@dataclass(frozen=True, slots=True)
class Architecture:
    """One value of `general.architecture`.

    `permutes_qk`: llama.cpp rotates neighbouring pairs there (x0 x1 | x2 x3 ...), Hugging Face
    rotates halves, so the rows of q and k are interleaved in the file.
    """

    name: str
    model_type: str  # Hugging Face's name of the base model
    has_subln: bool
    hidden_act: str
    permutes_qk: bool = False


ARCHITECTURES = {
    arch.name: arch
    for arch in (
        Architecture("llama", "llama", False, "silu", permutes_qk=True),
        Architecture("qwen2", "qwen2", False, "silu"),
        Architecture("qwen3", "qwen3", False, "silu"),
        Architecture("bitnet", "llama", True, "silu"),
        Architecture("bitnet-b1.58", "llama", True, "relu2"),
    )
}
_ALIASES = {"bitnet-25": "bitnet-b1.58", "bitnet-b158": "bitnet-b1.58"}
CLASS_NAMES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def architecture(name: str) -> Architecture:
    """The architecture called `name` in a file: aliases and other capitals are understood."""
    key = name.lower()
    arch = ARCHITECTURES.get(_ALIASES.get(key, key))
    if arch is None:
        known = ", ".join([*ARCHITECTURES, *_ALIASES])
        raise FormatError(
            f"GGUF architecture {name!r} is not supported{nearest(key, ARCHITECTURES)}; "
            f"supported: {known}"
        )
    return arch


def architecture_for(config: Mapping[str, Any], subln: str) -> Architecture:
    """The GGUF architecture that computes what a Hugging Face config with this SubLN computes."""
    model_type = str(config.get("model_type"))
    act = config.get("hidden_act")
    if act is None:
        raise FormatError("config.json has no 'hidden_act': the activation is never guessed")
    if subln not in ("none", "subln"):
        raise FormatError(
            f"SubLN placement {subln!r} has no GGUF form; only 'subln' and 'none' can be exported"
        )
    if model_type not in CLASS_NAMES:
        raise FormatError(
            f"model type {model_type!r} is not supported{nearest(model_type, CLASS_NAMES)}; "
            f"supported: {', '.join(CLASS_NAMES)}"
        )
    if subln == "subln" and model_type != "qwen3":
        wanted = {"silu": "bitnet", "relu2": "bitnet-b1.58"}.get(act)
    else:
        # No architecture has query/key norms and sub-norms: a Qwen3 with SubLN keeps its name, and
        # the file carries two more norms per layer.
        wanted = model_type if act == "silu" else None
    if wanted is None:
        raise FormatError(
            f"activation {act!r} of {model_type} with SubLN placement {subln!r} has no GGUF "
            "architecture; silu has one everywhere, relu2 only for llama and qwen2 with 'subln'"
        )
    return ARCHITECTURES[wanted]


def llama_cpp_limit(config: Mapping[str, Any], subln: str) -> str | None:
    """Why mainline llama.cpp cannot run the file of such a model, or None if it can."""
    if subln == "none":
        return None
    if config.get("hidden_act") == "relu2":
        return "llama.cpp has no architecture with squared ReLU and sub-norms"
    if config["model_type"] == "qwen3":
        return "llama.cpp has no architecture with query/key norms and sub-norms"
    if config["model_type"] == "qwen2" or config.get("attention_bias", False):
        return "llama.cpp's bitnet architecture has no biases"
    if not config.get("tie_word_embeddings", False):
        return "llama.cpp's bitnet architecture has no output matrix of its own"
    return None
