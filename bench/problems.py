"""The models whose linear layers the benches and tests/ops run on."""

from __future__ import annotations

from wrinklefree.bench.shapes import BITNET, SMOLLM2, Linear, Model

__all__ = ["BITNET", "LLAMA3", "MODELS", "QWEN3", "SMOLLM2", "Linear", "Model"]

QWEN3 = Model("Qwen3-0.6B", 28, 1024, 3072, 16, 8, 128, 151936)
LLAMA3 = Model("Llama-3.2-1B", 16, 2048, 8192, 32, 8, 64, 128256)
MODELS = [SMOLLM2, QWEN3, LLAMA3, BITNET]
