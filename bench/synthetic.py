"""GGUF files with the shape of a real model and random ternary weights, for speed only."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch

from problems import Model
from wrinklefree import ops

# Every linear type here holds ternary codes with one scale exactly, so all files of a model hold
# the same weights. TQ types need input widths that 256 divides.
LINEAR_LAYOUTS: dict[str, ops.Layout] = {"TQ2_0": "tq2_0", "TQ1_0": "tq1_0", "Q4_0": "q4_0"}
NAMES = {
    "q": ["attn_q"],
    "k, v": ["attn_k", "attn_v"],
    "o": ["attn_output"],
    "gate, up": ["ffn_gate", "ffn_up"],
    "down": ["ffn_down"],
}
ALPHABET = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 324)]]


def pack_layer(model: Model, linear_type: str) -> dict[str, np.ndarray]:
    """Tensor name (without the layer) to the bytes of its rows [N, row bytes]."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for linear in model.linears:
        for name in NAMES[linear.name]:
            codes = torch.randint(-1, 2, (linear.n, linear.k), generator=generator).to(torch.int8)
            scale = torch.tensor(1.2 / linear.k**0.5).half().float()
            packed = ops.pack_ternary(codes, scale, LINEAR_LAYOUTS[linear_type])
            tensors[name] = packed.reshape(linear.n, -1).numpy()
    return tensors


def write_model(
    path: Path, model: Model, *, layers: int, vocab: int, linear_type: str, head_type: str
) -> None:
    """A Llama graph with a tied head. All layers have the same weights: speed cannot tell."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(100000.0)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(ALPHABET + [f"t{i}" for i in range(vocab - len(ALPHABET))])
    writer.add_token_types([1] * vocab)
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(vocab - 1)

    head = gguf.GGMLQuantizationType[head_type]
    embedding = np.random.default_rng(0).normal(0, 1, (vocab, model.hidden)).astype(np.float32)
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(embedding, head), raw_dtype=head)
    ones = np.ones(model.hidden, dtype=np.float32)
    writer.add_tensor("output_norm.weight", ones)
    layer = pack_layer(model, linear_type)
    for i in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", ones)
        for name, rows in layer.items():
            raw_type = gguf.GGMLQuantizationType[linear_type]
            writer.add_tensor(f"blk.{i}.{name}.weight", rows, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
