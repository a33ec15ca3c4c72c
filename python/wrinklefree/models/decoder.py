"""The parts of a Llama-shaped Hugging Face decoder: its families, and one block at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from wrinklefree.errors import UsageError, nearest

# Families with the same seven projections per layer (qwen2 adds q/k/v biases, qwen3 q/k norms).
SUPPORTED_FAMILIES = ("llama", "qwen2", "qwen3")


def check_family(model: PreTrainedModel) -> None:
    """Raises UsageError unless the model is of a family that can be quantized."""
    family = str(model.config.model_type)
    if family in SUPPORTED_FAMILIES:
        return
    supported = ", ".join(SUPPORTED_FAMILIES)
    hint = nearest(family, SUPPORTED_FAMILIES)
    if family == "bitnet":
        hint = " (bitnet checkpoints are ternary already: convert them with wf-convert)"
    raise UsageError(f"model family {family!r} is not supported; supported: {supported}{hint}")


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Transformer blocks in order. Raises UsageError for an unknown family."""
    check_family(model)
    layers = model.base_model.layers
    assert isinstance(layers, nn.ModuleList)
    return layers


def run_layer(
    model: PreTrainedModel,
    index: int,
    x_BLD: torch.Tensor,
    *,
    position_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Output [B, L, D] of transformer block `index` for its input x_BLD, as in the whole model.

    position_ids: [B, L] or [1, L]; default 0..L-1. attention_mask: None (causal), [B, L] with 1 for
    valid tokens, or a prepared [B, 1, L, L] mask. No KV cache.
    """
    if position_ids is None:
        position_ids = torch.arange(x_BLD.shape[1], device=x_BLD.device).unsqueeze(0)
    mask_inputs: dict[str, Any] = {
        "config": model.config,
        "inputs_embeds": x_BLD,
        "attention_mask": attention_mask,
        "cache": None,
        "position_ids": position_ids,
    }
    rotary = model.base_model.get_submodule("rotary_emb")
    layer_types = getattr(model.config, "layer_types", None)
    slides = layer_types is not None and layer_types[index] == "sliding_attention"
    make_mask = create_sliding_window_causal_mask if slides else create_causal_mask
    output = decoder_layers(model)[index](
        x_BLD,
        attention_mask=make_mask(**mask_inputs),
        position_ids=position_ids,
        position_embeddings=rotary(x_BLD, position_ids),
        use_cache=False,
    )
    assert isinstance(output, torch.Tensor)
    return output
