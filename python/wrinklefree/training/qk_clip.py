"""QK-clip: weights of query and key shrink where attention logits grow (Muon's known failure).

arXiv 2507.20534, section 2.1: after the update, a head whose largest logit S of the step exceeds
the threshold t has its query and key weights multiplied by sqrt(t / S). A key head that several
query heads share stays as it is, as the paper's shared rotary key does; the queries take t / S.

In a ternary layer one scale serves all heads of the tensor: there, smaller rows become zero codes
more often instead of smaller numbers, so the logit falls over several steps, not at once.
Shapes: B rows, H query heads, G key heads, L tokens, N head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from wrinklefree.data.loader import Batch
from wrinklefree.errors import UsageError
from wrinklefree.models.attention_states import AttentionStates, observe_attention
from wrinklefree.models.decoder import decoder_layers
from wrinklefree.training.distributed import World


class QKClip:
    """Watches the forward passes of a step, then rescales. Raises UsageError for q/k norms, whose
    gains, not the projections, decide how large logits are."""

    def __init__(
        self,
        model: PreTrainedModel,
        threshold: float,
        world: World = World(),  # noqa: B008 (frozen)
    ) -> None:
        self.model = model
        self.world = world
        self.threshold = threshold
        self._attentions = [layer.get_submodule("self_attn") for layer in decoder_layers(model)]
        if hasattr(self._attentions[0], "q_norm"):
            raise UsageError(
                f"training.qk_clip={threshold:g}: {model.config.model_type} normalises queries and "
                "keys, which bounds their logits already; leave it at 0"
            )
        self._largest_H: dict[int, torch.Tensor] = {}

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """Inside, forward passes of the model on `batch` are measured."""
        documents = batch.documents_BL
        length = documents.shape[1]
        is_past_LL = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
        is_same_BLL = documents[:, :, None] == documents[:, None, :]
        seen_BLL = is_same_BLL & batch.is_token_BL[:, :, None] & is_past_LL

        def observe(layer: int, states: AttentionStates) -> None:
            scaling = float(self._attentions[layer].scaling)  # type: ignore[arg-type]
            largest = _largest_logits(states.q_BHLD.detach(), states.k_BGLD.detach(), seen_BLL)
            largest *= scaling
            before = self._largest_H.get(layer)
            self._largest_H[layer] = largest if before is None else before.maximum(largest)

        with observe_attention(self.model, range(len(self._attentions)), observe):
            yield

    @torch.no_grad()
    def apply(self) -> float:
        """Rescale the heads above the threshold and forget; the largest logit that was seen."""
        largest = 0.0
        self.world.keep_largest(self._largest_H[layer] for layer in sorted(self._largest_H))
        for layer, largest_H in self._largest_H.items():
            largest = max(largest, float(largest_H.max()))
            factor_H = (self.threshold / largest_H.clamp(min=self.threshold)).clamp(max=1.0)
            if bool((factor_H < 1.0).any()):
                self._rescale(self._attentions[layer], factor_H)
        self._largest_H.clear()
        return largest

    def _rescale(self, attention: nn.Module, factor_H: torch.Tensor) -> None:
        q, k = attention.get_submodule("q_proj"), attention.get_submodule("k_proj")
        if int(self.model.config.num_key_value_heads) == len(factor_H):
            _scale_heads(q, factor_H.sqrt())
            _scale_heads(k, factor_H.sqrt())
        else:
            _scale_heads(q, factor_H)


def _largest_logits(
    q_BHLN: torch.Tensor, k_BGLN: torch.Tensor, seen_BLL: torch.Tensor
) -> torch.Tensor:
    """Largest product of a query with a key it sees, before scaling, float32 [H]."""
    heads, groups = q_BHLN.shape[1], k_BGLN.shape[1]
    rows = []
    # Row by row: the products of one row are as many as a model ever holds without flash attention.
    for q_HLN, k_GLN, seen_LL in zip(q_BHLN, k_BGLN, seen_BLL, strict=True):
        products = q_HLN.unflatten(0, (groups, heads // groups)) @ k_GLN[:, None].transpose(-1, -2)
        products = products.float().masked_fill(~seen_LL, -torch.inf)
        rows.append(products.flatten(0, 1).amax((-2, -1)))
    return torch.stack(rows).amax(0)


def _scale_heads(projection: nn.Module, factor_H: torch.Tensor) -> None:
    """Multiply the rows of each head, and its part of a bias."""
    for parameter in projection.parameters(recurse=False):
        per_head = parameter.view(len(factor_H), -1)
        per_head *= factor_H[:, None]
