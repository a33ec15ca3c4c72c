"""Sample inputs of every op, for the registry test."""

from __future__ import annotations

from typing import Any

import torch


def samples() -> dict[str, list[tuple[Any, ...]]]:
    """Argument tuples per op name: odd sizes, one row, no row."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 33, generator=generator)
    w = torch.randn(7, 33, generator=generator)
    codes = torch.randint(-1, 2, (7, 33), generator=generator, dtype=torch.int8)
    scale = torch.tensor(0.25)
    pack = torch.ops.wrinklefree.pack_ternary
    packed, t1, lut = (pack(codes, scale, layout) for layout in ("t2", "t1", "lut"))
    q = torch.randint(-127, 128, (3, 33), generator=generator, dtype=torch.int8)
    spread = torch.eye(33) + 0.1 * torch.randn(33, 33, generator=generator).triu()
    return {
        "quantize_act_int8": [(x,), (x[:0],), (x.reshape(5, 1, 33),)],
        "ternary_quantize": [(w,)],
        "pack_ternary": [(codes, scale, layout) for layout in ("t2", "t1", "lut", "hf")],
        "unpack_ternary": [(packed, "t2", 7, 33), (t1, "t1", 7, 33), (lut, "lut", 7, 33)],
        "ternary_linear": [
            (x, packed, scale, 7, None),
            (x[0], packed, scale, 7, torch.randn(7)),
            (x, t1, scale, 7, None, "t1"),
            (x, lut, scale, 7, None, "lut"),
        ],
        "ternary_matmul_int32": [(q, packed, 7), (q, t1, 7, "t1"), (q, lut, 7, "lut")],
        "fake_quant_ternary": [(w.clone().requires_grad_(), 0.5), (w, 1.0)],
        "fake_quant_act": [(x.clone().requires_grad_(), 0.5), (x, 1.0)],
        "ternary_pack": [(w,), (w[:1].to(torch.bfloat16),)],
        "ternary_linear_codes": [
            (x, packed, scale, 7, None, torch.float32),
            (x[0].to(torch.bfloat16), packed, scale, 7, torch.randn(7), torch.bfloat16),
            (x.reshape(5, 1, 33), packed, scale, 7, None, torch.bfloat16),
            (x, packed, scale, 7, None, torch.float32, torch.rand(33), 1e-5),
        ],
        "ternary_input_grad": [
            (torch.randn(5, 7), packed, scale, 33, 1, torch.float32),
            (torch.randn(5, 7).to(torch.bfloat16), packed, scale, 33, 2, torch.bfloat16),
        ],
        "ternary_weight_grad": [
            (torch.randn(3, 7), q, torch.rand(3), 30),
            (torch.randn(3, 7).to(torch.bfloat16), q, torch.rand(3), 33),
            (torch.randn(0, 7).to(torch.bfloat16), q[:0], torch.rand(0), 33),
        ],
        "round_ternary": [(w, scale, torch.float32), (w, scale, torch.bfloat16)],
        "rms_norm": [
            (x.clone().requires_grad_(), torch.rand(33, requires_grad=True), 1e-5),
            (x.to(torch.bfloat16), torch.rand(33), 1e-6),
            (x[:0], torch.rand(33), 1e-5),
        ],
        "rms_norm_backward": [
            (torch.randn(5, 33), x, torch.rand(33), 1e-5),
            (torch.randn(5, 33).to(torch.bfloat16), x, torch.rand(33), 1e-5),
            (x[:0], x[:0], torch.rand(33), 1e-5),
        ],
        "gptq_round": [(w, spread, 0.6, 1.2), (w[:1], spread, 0.6, 1.2)],
    }
