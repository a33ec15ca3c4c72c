"""The weighted sum of losses that a stage minimises, and what each term needs from the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from wrinklefree.configs.config import GradientConfig
from wrinklefree.data.loader import Batch
from wrinklefree.errors import UsageError
from wrinklefree.training.distributed import World
from wrinklefree.training.forward import QKV, decode, head_input
from wrinklefree.training.head_loss import HeadInput, head_losses
from wrinklefree.training.losses import (
    attention_relation,
    check_split_heads,
    hidden_state_distance,
    layer_weights,
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Valid positions of one optimizer step, over its batches in all processes: the loss
    denominators."""

    labels: int
    tokens: int


def count(
    batches: Iterable[Batch],
    world: World = World(),  # noqa: B008 (frozen)
) -> Counts:
    """Count before any forward pass. A step without a label counts 1, so that its loss is 0."""
    labels = tokens = 0
    for batch in batches:
        labels += int(batch.is_label_BL.sum())
        tokens += int(batch.is_token_BL.sum())
    labels, tokens = (int(total) for total in world.sum([labels, tokens]))
    return Counts(max(labels, 1), max(tokens, 1))


@dataclass(frozen=True, slots=True)
class TeacherOutputs:
    """What the teacher says about a batch; parts that no term needs are empty."""

    head: HeadInput | None  # at the KD positions
    layers_BLD: tuple[torch.Tensor, ...]
    relation: Mapping[int, QKV]  # keyed by the student's layer


@dataclass(frozen=True, slots=True)
class Objective:
    """Which terms are on, with what weights and positions."""

    ce_weight: float
    kd_weight: float
    kd_tau: float
    kd_everywhere: bool  # at all tokens instead of labels only
    gamma: float
    relation_layers: tuple[int, ...]
    split_heads: int
    relation_normalisation: str
    layerwise_weight: float
    layer_weights: tuple[float, ...]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        return self.kd_weight > 0 or self.gamma > 0 or self.layerwise_weight > 0

    def kd_positions_BL(self, batch: Batch) -> torch.Tensor:
        """Positions of the logit KL."""
        return batch.is_token_BL if self.kd_everywhere else batch.is_label_BL

    def num_logits(self, counts: Counts) -> int:
        """Positions of a step that go through the head."""
        if self.kd_weight > 0 and self.kd_everywhere:
            return counts.tokens
        return counts.labels if self.ce_weight > 0 or self.kd_weight > 0 else 0

    def terms(
        self, model: PreTrainedModel, batch: Batch, teacher: TeacherOutputs | None, counts: Counts
    ) -> dict[str, torch.Tensor]:
        """Weighted terms whose sum is this batch's share of the step's loss."""
        student = decode(
            model,
            batch,
            relation_layers=self.relation_layers if self.gamma > 0 else (),
            with_layers=self.layerwise_weight > 0,
        )
        terms: dict[str, torch.Tensor] = {}
        if self.ce_weight > 0 or self.kd_weight > 0:
            terms |= self._logit_terms(model, student.last_BLD, batch, teacher, counts)
        if teacher is not None and self.gamma > 0:
            terms["relation"] = self.gamma * sum(
                (
                    attention_relation(
                        student.relation[layer],
                        teacher.relation[layer],
                        batch.documents_BL,
                        split_heads=self.split_heads,
                        normalisation=self.relation_normalisation,
                        num_layers=len(self.relation_layers),
                        count=counts.tokens,
                    )
                    for layer in self.relation_layers
                ),
                start=torch.zeros((), device=student.last_BLD.device),
            )
        if teacher is not None and self.layerwise_weight > 0:
            is_token = batch.is_token_BL
            terms["layerwise"] = self.layerwise_weight * sum(
                (
                    weight
                    * hidden_state_distance(own[is_token], goal[is_token], count=counts.tokens)
                    for weight, own, goal in zip(
                        self.layer_weights, student.layers_BLD, teacher.layers_BLD, strict=True
                    )
                ),
                start=torch.zeros((), device=student.last_BLD.device),
            )
        return terms

    def _logit_terms(
        self,
        model: PreTrainedModel,
        hidden_BLD: torch.Tensor,
        batch: Batch,
        teacher: TeacherOutputs | None,
        counts: Counts,
    ) -> dict[str, torch.Tensor]:
        uses_all = self.kd_weight > 0 and self.kd_everywhere
        where_BL = batch.is_token_BL if uses_all else batch.is_label_BL
        ce, kd = head_losses(
            head_input(model, hidden_BLD[where_BL]),
            batch.targets_BL[where_BL],
            ce_scale=self.ce_weight / counts.labels,
            teacher=teacher.head if teacher is not None else None,
            kd_scale=self.kd_weight / (counts.tokens if self.kd_everywhere else counts.labels),
            tau=self.kd_tau,
        )
        terms: dict[str, torch.Tensor] = {}
        if self.ce_weight > 0:
            terms["ce"] = ce
        if self.kd_weight > 0 and teacher is not None:
            terms["kd"] = kd
        return terms


def state_widths(model: PreTrainedModel) -> tuple[int, int]:
    """Widths of the Q and the K/V states of a layer."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim


def build_objective(config: GradientConfig, model: PreTrainedModel) -> Objective:
    """The objective of a stage. Raises UsageError for values that do not fit this student."""
    num_layers = int(model.config.num_hidden_layers)
    chosen = config.relation_layers
    layers = chosen if chosen is not None else (int(0.8 * num_layers),)
    if config.gamma > 0:
        check_split_heads(config.split_heads, *state_widths(model))
    for layer in layers:
        if not -num_layers <= layer < num_layers:
            raise UsageError(
                f"training.relation_layers={list(layers)}: the layers are 0 to {num_layers - 1}"
            )
    objective = Objective(
        ce_weight=config.ce_weight,
        kd_weight=config.kd_weight,
        kd_tau=config.kd_tau,
        kd_everywhere=config.kd_positions == "all",
        gamma=config.gamma,
        relation_layers=tuple(layer % num_layers for layer in layers),
        split_heads=config.split_heads,
        relation_normalisation=config.relation_normalisation,
        layerwise_weight=config.layerwise_weight,
        layer_weights=tuple(layer_weights(num_layers, config.layer_weighting)),
    )
    if not objective.needs_teacher and objective.ce_weight == 0:
        raise UsageError(
            "all loss weights are 0; set training.ce_weight, kd_weight, gamma or layerwise_weight"
        )
    return objective
