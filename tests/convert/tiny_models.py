"""Tiny random models, saved as artifacts or plain directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from wrinklefree.models import Manifest, QuantConfig, quantize_, save_artifact

# Rows of 256 and 512 fit every ternary type; 576 and 96 fit Q4_0 only; 200 fits F16 only.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
ODD = {"hidden_size": 576, "intermediate_size": 768, "num_attention_heads": 9}
UNEVEN = {"hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 4}

# config.json of a Llama, for tests without weights
LLAMA_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    "tie_word_embeddings": True,
}


def tiny_model(
    family: str = "llama", *, tied: bool = True, seed: int = 0, **config: Any
) -> PreTrainedModel:
    """A random float model of 2 layers, whose logits depend on every tensor."""
    torch.manual_seed(seed)
    heads = config.get("num_attention_heads", WIDE["num_attention_heads"])
    settings = {
        **WIDE,
        "num_hidden_layers": 2,
        "num_key_value_heads": 3 if heads == 9 else 2,
        "vocab_size": 512,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **config,
    }
    settings.setdefault("head_dim", settings["hidden_size"] // settings["num_attention_heads"])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name or "lm_head" in name:
                parameter.normal_(std=0.05)
                # Neither control nor byte tokens are ever the likeliest: llama.cpp keeps back the
                # log-probabilities of a character until all of its bytes are there.
                parameter[:259] = 0.0
            elif "norm" in name:
                parameter.uniform_(0.7, 1.3)
            elif "q_proj.weight" in name or "k_proj.weight" in name:
                # Attention is far from uniform, so that the rotation of q and k matters.
                parameter.normal_(std=1.9 / parameter.shape[1] ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.normal_(std=0.05)
    return model.eval()


def save_tiny_artifact(
    path: Path,
    tokenizer_dir: Path,
    family: str = "llama",
    *,
    subln: str = "none",
    lam: float = 1.0,
    **config: Any,
) -> Path:
    """A tiny model after `quantize_`, SubLN gains included, saved as an artifact."""
    model = tiny_model(family, **config)
    quantize_(model, QuantConfig(subln=subln, lam=lam))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sub_norm" in name or name.endswith("_proj.norm.weight"):
                parameter.uniform_(0.7, 1.3)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    save_artifact(model, tokenizer, path, Manifest(stage="test"))
    return path


def save_tiny_directory(path: Path, tokenizer_dir: Path, model: PreTrainedModel) -> Path:
    """A plain Hugging Face directory of a model."""
    model.save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_dir / file, path / file)
    return path


def edit_json(path: Path, **changes: Any) -> None:
    """Changes top-level entries of a JSON file."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))
