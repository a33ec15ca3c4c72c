"""All linear layers of a model as one decoded token or one block of a prompt meets them."""

from __future__ import annotations

import torch

from problems import Linear, Model
from products import in_huge_pages
from wrinklefree import ops

SCALE = torch.tensor(0.02)


class Body:
    """The projections of every layer in each layout, in huge pages.

    One layer is packed and copied: the codes of all layers are the same, their memory is not.
    """

    def __init__(self, model: Model, layouts: tuple[ops.KernelLayout, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = model
        self._linears = [x for x in model.linears for _ in range(x.per_layer)]
        codes = [
            torch.randint(-1, 2, (x.n, x.k), generator=generator, dtype=torch.int8)
            for x in self._linears
        ]
        self._weights = {
            layout: in_huge_pages(
                [ops.pack_ternary(c, SCALE, layout) for c in codes] * model.layers
            )
            for layout in layouts
        }
        self._inputs: dict[tuple[int, int], torch.Tensor] = {}

    def weight_bytes(self, layout: ops.KernelLayout) -> int:
        return sum(w.nbytes for w in self._weights[layout])

    def run(self, layout: ops.KernelLayout, rows: int, layers: int) -> None:
        """`rows` activations through the first `layers` layers."""
        for i, w in enumerate(self._weights[layout][: layers * len(self._linears)]):
            linear = self._linears[i % len(self._linears)]
            ops.ternary_linear(self._input(linear, rows), w, SCALE, linear.n, layout=layout)

    def _input(self, linear: Linear, rows: int) -> torch.Tensor:
        key = (rows, linear.k)
        if key not in self._inputs:
            self._inputs[key] = torch.randn(key, generator=torch.Generator().manual_seed(1))
        return self._inputs[key]
