"""GGUF architectures, and which one computes what a Hugging Face model computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from wrinklefree.errors import FormatError, nearest
from wrinklefree.models.quant_config import SubLNPlacement

OWN = "wrinklefree"  # what no other tool can represent; docs/formats.md describes it
MODEL_TYPE_KEY = "wrinklefree.model_type"
SUBLN_KEY = "wrinklefree.subln"
HIDDEN_ACT_KEY = "wrinklefree.hidden_act"
HIDDEN_ACTS = ("silu", "relu2")
PLACEMENTS: tuple[str, ...] = get_args(SubLNPlacement)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One value of `general.architecture`, or what a file of our own architecture says of itself.

    `permutes_qk`: llama.cpp rotates neighbouring pairs there (x0 x1 | x2 x3 ...), Hugging Face
    rotates halves, so the rows of q and k are interleaved in the file.
    """

    name: str
    model_type: str  # Hugging Face's name of the base model
    subln: str
    hidden_act: str
    permutes_qk: bool = False


ARCHITECTURES = {
    arch.name: arch
    for arch in (
        Architecture("llama", "llama", "none", "silu", permutes_qk=True),
        Architecture("qwen2", "qwen2", "none", "silu"),
        Architecture("qwen3", "qwen3", "none", "silu"),
        Architecture("bitnet", "llama", "subln", "silu"),
        Architecture("bitnet-b1.58", "llama", "subln", "relu2"),
    )
}
_ALIASES = {"bitnet-25": "bitnet-b1.58", "bitnet-b158": "bitnet-b1.58"}
CLASS_NAMES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def architecture(name: str) -> Architecture:
    """The peers' architecture called `name`: aliases and other capitals are understood."""
    key = name.lower()
    arch = ARCHITECTURES.get(_ALIASES.get(key, key))
    if arch is None:
        known = [*ARCHITECTURES, *_ALIASES, OWN]
        raise FormatError(
            f"GGUF architecture {name!r} is not supported{nearest(key, known)}; "
            f"supported: {', '.join(known)}"
        )
    return arch


def architecture_of(metadata: Mapping[str, Any]) -> Architecture:
    """The architecture of a file: a name, for our own one also what its keys say.

    Raises FormatError where a key of ours says otherwise than the name.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise FormatError("the file has no general.architecture")
    said = {key: metadata.get(key) for key in (MODEL_TYPE_KEY, SUBLN_KEY, HIDDEN_ACT_KEY)}
    if name.lower() != OWN:
        arch = architecture(name)
        meant = {
            MODEL_TYPE_KEY: arch.model_type,
            SUBLN_KEY: arch.subln,
            HIDDEN_ACT_KEY: arch.hidden_act,
        }
        for key, value in meant.items():
            if said[key] not in (None, value):
                raise FormatError(f"{key} is {said[key]!r}, but {name} has {value!r}")
        return arch
    allowed = {MODEL_TYPE_KEY: CLASS_NAMES, SUBLN_KEY: PLACEMENTS, HIDDEN_ACT_KEY: HIDDEN_ACTS}
    for key, values in allowed.items():
        if said[key] not in values:
            raise FormatError(f"{key} is {said[key]!r}; known are {', '.join(values)}")
    return Architecture(
        OWN, str(said[MODEL_TYPE_KEY]), str(said[SUBLN_KEY]), str(said[HIDDEN_ACT_KEY])
    )


def architecture_for(
    config: Mapping[str, Any], subln: str, subln_eps: float, tensor_names: Iterable[str] = ()
) -> Architecture:
    """The GGUF architecture that computes what this model computes.

    A peer's where one has all its parts, else our own. `tensor_names` say which biases there are.
    """
    model_type = str(config.get("model_type"))
    act = config.get("hidden_act")
    if act is None:
        raise FormatError("config.json has no 'hidden_act': the activation is never guessed")
    if act not in HIDDEN_ACTS:
        raise FormatError(
            f"activation {act!r} is not supported; supported: {', '.join(HIDDEN_ACTS)}"
        )
    if model_type not in CLASS_NAMES:
        raise FormatError(
            f"model type {model_type!r} is not supported{nearest(model_type, CLASS_NAMES)}; "
            f"supported: {', '.join(CLASS_NAMES)}"
        )
    if own_reason(config, subln, subln_eps, tensor_names) is not None:
        return Architecture(OWN, model_type, subln, act)
    if subln == "none":
        return ARCHITECTURES[model_type]
    return ARCHITECTURES["bitnet" if act == "silu" else "bitnet-b1.58"]


def own_reason(
    config: Mapping[str, Any], subln: str, subln_eps: float, tensor_names: Iterable[str] = ()
) -> str | None:
    """Why no architecture of llama.cpp or bitnet.cpp computes this model, None if one does."""
    model_type = config["model_type"]
    biased = {name.split(".")[-2] for name in tensor_names if name.endswith("_proj.bias")}
    heads = int(config["num_attention_heads"])
    width = heads * int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    has_square_attention = width == config["hidden_size"]
    if subln == "all":
        return "no architecture of llama.cpp has a norm inside each linear layer"
    if subln == "none":
        if config["hidden_act"] != "silu":
            return "no architecture of llama.cpp has squared ReLU without sub-norms"
        known = {"qwen2": {"q_proj", "k_proj", "v_proj"}, "qwen3": set[str]()}
        if biased - known.get(model_type, biased):
            return f"llama.cpp's {model_type} architecture has no such biases"
        if model_type == "qwen2" and not has_square_attention:
            return "llama.cpp's qwen2 architecture needs heads x head size = hidden size"
        return None
    if model_type == "qwen3":
        return "no architecture of llama.cpp has query/key norms and sub-norms"
    if biased:
        return "llama.cpp's bitnet architecture has no biases"
    if not config.get("tie_word_embeddings", False):
        return "llama.cpp's bitnet architecture has no output matrix of its own"
    if not has_square_attention:
        return "llama.cpp's bitnet architecture needs heads x head size = hidden size"
    if subln_eps != config["rms_norm_eps"]:
        return "llama.cpp's bitnet architecture has one epsilon for all norms"
    return None


def llama_cpp_limit(arch: Architecture, reason: str | None) -> str | None:
    """Why mainline llama.cpp cannot run a file; `reason` is that of `own_reason`."""
    if arch.name == "bitnet-b1.58":
        return "llama.cpp has no architecture with squared ReLU and sub-norms"
    return reason
