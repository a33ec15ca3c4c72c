"""One forward pass: hidden states, relation states, and what logits are made of.

The language-model head is the largest matrix of a small model (SmolLM2-135M: 28.3M of 134.5M
parameters), so the losses apply it to the selected positions alone.
Shapes: B rows, L tokens, D hidden width, H heads, N head width, P selected positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from wrinklefree.data.loader import Batch
from wrinklefree.errors import UsageError
from wrinklefree.models.attention_states import capture_attention
from wrinklefree.models.calibration import CalibrationRows
from wrinklefree.training.head_loss import HeadInput

QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # each [B, H, L, N]


@dataclass(frozen=True, slots=True)
class Hidden:
    """What the decoder stack computed for a batch."""

    last_BLD: torch.Tensor  # after the final norm: the head's input
    layers_BLD: tuple[torch.Tensor, ...]  # output of each layer, the last one normed; () if unasked
    relation: Mapping[int, QKV]  # after q/k norms and RoPE, K and V before head repetition


def decode(
    model: PreTrainedModel,
    batch: Batch,
    *,
    relation_layers: Collection[int] = (),
    with_layers: bool = False,
) -> Hidden:
    """Run the decoder stack, without the head."""
    capture: contextlib.AbstractContextManager[Any] = contextlib.nullcontext({})
    if relation_layers:
        capture = capture_attention(model, relation_layers)
    with capture as relation:
        output = model.base_model(
            input_ids=batch.tokens_BL,
            position_ids=batch.positions_BL,
            attention_mask=_attention_mask(batch, model.config),
            use_cache=False,
            output_hidden_states=with_layers,
        )
    layers = tuple(output.hidden_states[1:]) if with_layers else ()
    return Hidden(output.last_hidden_state, layers, relation)


def calibration_rows_of(batch: Batch, config: PretrainedConfig) -> CalibrationRows:
    """The batch as calibration runs it, layer by layer: with documents apart as in `decode`."""
    mask = _attention_mask(batch, config)
    positions = None if mask is None else batch.positions_BL
    return CalibrationRows(batch.tokens_BL, batch.is_token_BL, positions, mask)


def _attention_mask(batch: Batch, config: PretrainedConfig) -> torch.Tensor | None:
    """Causal within each document, bool [B, 1, L, L]; None (plain causal) for one document a row.

    Padding lies on the right, where causal attention never looks, so it needs no mask.
    Raises UsageError for rows longer than a sliding window, which this mask would widen.
    """
    if not batch.is_packed:
        return None
    documents = batch.documents_BL
    length = documents.shape[1]
    window = getattr(config, "sliding_window", None)
    if window is not None and length > window:
        raise UsageError(
            f"data.max_length={length} exceeds the model's sliding window of {window} tokens"
        )
    is_past = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & is_past)[:, None]


def head(model: PreTrainedModel) -> nn.Module:
    """The language-model head."""
    module: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return module


def head_input(model: PreTrainedModel, hidden_PD: torch.Tensor) -> HeadInput:
    """Hidden states with the weight of the model's head, which in all families has no bias."""
    weight = head(model).weight
    assert isinstance(weight, torch.Tensor)
    return HeadInput(hidden_PD, weight)


def device_of(model: PreTrainedModel) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device
