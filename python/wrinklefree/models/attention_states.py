"""The Q, K, V states that the attention of chosen layers really uses: observed, or kept.

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

_PREFIX = "wrinklefree_observed_"
# Attribute of an attention module whose states are wanted: who gets them.
_OBSERVERS = "_state_observers"


class AttentionStates(NamedTuple):
    """Q after q-norm and RoPE, K after k-norm and RoPE, V; K and V before head repetition."""

    q_BHLD: torch.Tensor
    k_BGLD: torch.Tensor
    v_BGLD: torch.Tensor


Observer = Callable[[int, AttentionStates], None]  # given the layer's index and its states


@contextmanager
def observe_attention(
    model: PreTrainedModel, layers: Iterable[int], observe: Observer
) -> Iterator[None]:
    """Every forward pass inside the block shows `observe` the states of the layers.

    Works through transformers' attention registry, so the model's forward is untouched and its
    attention implementation stays what it was. The states are part of the graph. Contexts may be
    nested, of one model or of several. Negative layers count from the last one.
    Raises UsageError for a layer that the model does not have.
    """
    blocks = decoder_layers(model)
    attentions = [_attention(blocks, index) for index in layers]
    original = str(model.config._attn_implementation)
    before = [getattr(attention, _OBSERVERS, ()) for attention in attentions]
    for attention, observers in zip(attentions, before, strict=True):
        setattr(attention, _OBSERVERS, (*observers, observe))
    model.config._attn_implementation = _observed(original, type(_attention(blocks, 0)))
    try:
        yield
    finally:
        model.config._attn_implementation = original
        for attention, observers in zip(attentions, before, strict=True):
            setattr(attention, _OBSERVERS, observers)


@contextmanager
def capture_attention(
    model: PreTrainedModel, layers: Iterable[int]
) -> Iterator[dict[int, AttentionStates]]:
    """Dictionary that every forward pass inside the block fills: layer index -> AttentionStates.

    Keys are positive. Otherwise as observe_attention.
    """
    states: dict[int, AttentionStates] = {}
    with observe_attention(model, layers, states.__setitem__):
        yield states


def _attention(blocks: nn.ModuleList, index: int) -> nn.Module:
    if not -len(blocks) <= index < len(blocks):
        raise UsageError(f"layer {index}: the model has layers 0 to {len(blocks) - 1}")
    return blocks[index].get_submodule("self_attn")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _show(module: nn.Module, states: AttentionStates) -> None:
    # Not compiled: the observers are new ones in every step, and code would be made for each.
    observers: tuple[Observer, ...] = getattr(module, _OBSERVERS, ())
    for observe in observers:
        observe(module.layer_idx, states)  # type: ignore[arg-type]


def _observed(implementation: str, attention_class: type[nn.Module]) -> str:
    """Name of a registered attention function that shows its inputs, then runs the given one."""
    if implementation.startswith(_PREFIX):
        return implementation
    # The eager function is not in the registry: every model file has its own, of the same body.
    eager = sys.modules[attention_class.__module__].__dict__["eager_attention_forward"]
    inner: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)

    def attention(
        module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kw: Any
    ) -> Any:
        _show(module, AttentionStates(q, k, v))
        return inner(module, q, k, v, *args, **kw)

    name = _PREFIX + implementation
    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name
