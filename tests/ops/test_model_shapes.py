"""ternary_linear on layers of real models: the shapes that the benches time."""

from __future__ import annotations

import pytest
import torch

import problems
from wrinklefree import ops, reference

# Every model, wide and narrow; with 5 rows t1 goes by way of t2, with 1 it does not.
SHAPES = [
    (problems.SMOLLM2, "k, v"),
    (problems.SMOLLM2, "down"),
    (problems.QWEN3, "gate, up"),
    (problems.LLAMA3, "o"),
    (problems.BITNET, "k, v"),
    (problems.BITNET, "down"),
]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("model", "name"), SHAPES, ids=lambda part: getattr(part, "name", part))
def test_layer_equals_reference_in_every_layout(
    model: problems.Model, name: str, rows: int
) -> None:
    linear = next(linear for linear in model.linears if linear.name == name)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (linear.n, linear.k), generator=generator, dtype=torch.int8)
    x, scale = torch.randn(rows, linear.k, generator=generator), torch.tensor(0.02)
    expected = reference.ternary_linear(x, codes, scale)
    layouts: list[ops.KernelLayout] = ["t2", "t1", "lut"]
    for layout in layouts:
        packed = ops.pack_ternary(codes, scale, layout)
        y = ops.ternary_linear(x, packed, scale, linear.n, layout=layout)
        assert torch.equal(y, expected), layout


def test_layers_add_up_to_the_models() -> None:
    """Millions of parameters without the embedding: 135 M - 28 M, 0.44 B, 0.97 B, 2.08 B."""
    millions = {m.name: m.layers * m.layer_weights / 1e6 for m in problems.MODELS}
    assert {name: round(count) for name, count in millions.items()} == {
        "SmolLM2-135M": 106,
        "Qwen3-0.6B": 440,
        "Llama-3.2-1B": 973,
        "BitNet-b1.58-2B-4T": 2084,
    }
