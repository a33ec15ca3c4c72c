"""Shapes of real models and of the linear layers in them."""

from __future__ import annotations

from typing import NamedTuple


class Linear(NamedTuple):
    """N outputs, K inputs; `per_layer` matrices of that shape in each layer."""

    name: str
    n: int
    k: int
    per_layer: int


class Model(NamedTuple):
    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def linears(self) -> list[Linear]:
        """The projections of one layer in the order in which a token meets them."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            Linear("q", q, self.hidden, 1),
            Linear("k, v", kv, self.hidden, 2),
            Linear("o", self.hidden, q, 1),
            Linear("gate, up", self.ffn, self.hidden, 2),
            Linear("down", self.hidden, self.ffn, 1),
        ]

    @property
    def layer_weights(self) -> int:
        return sum(linear.n * linear.k * linear.per_layer for linear in self.linears)


SMOLLM2 = Model("SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152)
BITNET = Model("BitNet-b1.58-2B-4T", 30, 2560, 6912, 20, 5, 128, 128256)
