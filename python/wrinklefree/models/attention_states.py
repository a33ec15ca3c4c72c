"""capture_attention: the Q, K, V states that the attention of chosen layers really uses.

Legend: B batch, H query heads, G key/value heads, L tokens, D head dimension.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wrinklefree.errors import UsageError
from wrinklefree.models.decoder import decoder_layers

_PREFIX = "wrinklefree_capture_"
# Attribute of an attention module whose states are wanted: the dictionary to put them in.
_STORE = "_captured_states"


class AttentionStates(NamedTuple):
    """Q after q-norm and RoPE, K after k-norm and RoPE, V; K and V before head repetition."""

    q_BHLD: torch.Tensor
    k_BGLD: torch.Tensor
    v_BGLD: torch.Tensor


@contextmanager
def capture_attention(
    model: PreTrainedModel, layers: Iterable[int]
) -> Iterator[dict[int, AttentionStates]]:
    """Dictionary that every forward pass inside the block fills: layer index -> AttentionStates.

    Works through transformers' attention registry, so the model's forward is untouched and its
    attention implementation stays what it was. The states are part of the graph. Contexts of
    different models may be nested. Negative indices count from the last layer (keys are positive).
    Raises UsageError for a layer that the model does not have.
    """
    blocks = decoder_layers(model)
    attentions = [_attention(blocks, index) for index in layers]
    original = str(model.config._attn_implementation)
    states: dict[int, AttentionStates] = {}
    for attention in attentions:
        setattr(attention, _STORE, states)
    model.config._attn_implementation = _capturing(original, type(_attention(blocks, 0)))
    try:
        yield states
    finally:
        model.config._attn_implementation = original
        for attention in attentions:
            delattr(attention, _STORE)


def _attention(blocks: nn.ModuleList, index: int) -> nn.Module:
    if not -len(blocks) <= index < len(blocks):
        raise UsageError(f"layer {index}: the model has layers 0 to {len(blocks) - 1}")
    return blocks[index].get_submodule("self_attn")


def _capturing(implementation: str, attention_class: type[nn.Module]) -> str:
    """Name of a registered attention function that stores its inputs, then runs the given one."""
    # The eager function is not in the registry: every model file has its own, of the same body.
    eager = sys.modules[attention_class.__module__].__dict__["eager_attention_forward"]
    inner: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)

    def attention(
        module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kw: Any
    ) -> Any:
        store: dict[Any, AttentionStates] | None = getattr(module, _STORE, None)
        if store is not None:
            store[module.layer_idx] = AttentionStates(q, k, v)
        return inner(module, q, k, v, *args, **kw)

    name = _PREFIX + implementation
    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name
