"""Tiny random models of each supported family, and the real stories260K."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from wrinklefree.models import load_teacher

# head_dim * heads differs from hidden_size, as in Qwen3-0.6B: attn_sub_norm must follow o_proj.
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}

MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture(autouse=True)
def _seeded_single_thread() -> Iterator[None]:
    """Reproducible weights; one thread, since a second one only waits on matrices this small."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model() -> MakeModel:
    """make_model(family, **config overrides) -> random float32 model in eval mode."""

    def make(family: str = "llama", **overrides: object) -> PreTrainedModel:
        config_class, model_class = FAMILIES[family]
        model = model_class(config_class(**{**SHAPE, **overrides}))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # Hugging Face starts biases at 0, which would hide mistakes
                torch.nn.init.normal_(parameter, std=0.1)
        return model.eval()

    return make


@pytest.fixture
def stories(data_dir: Path) -> PreTrainedModel:
    """The real trained stories260K."""
    model, _ = load_teacher(data_dir / "stories260k_hf")
    return model


@pytest.fixture
def tokens() -> torch.Tensor:
    """[2, 11] token ids valid for the tiny models and stories260K."""
    return torch.randint(3, 97, (2, 11))
