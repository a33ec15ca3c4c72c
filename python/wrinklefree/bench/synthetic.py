"""GGUF files with the shape of a real model and random ternary weights, for speed only."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from wrinklefree.bench.shapes import Model
from wrinklefree.convert import q6_k
from wrinklefree.convert.to_gguf import add_keys
from wrinklefree.convert.tokenizer_gguf import tokenizer_keys

NAMES = {
    "q": ["attn_q"],
    "k, v": ["attn_k", "attn_v"],
    "o": ["attn_output"],
    "gate, up": ["ffn_gate", "ffn_up"],
    "down": ["ffn_down"],
}
ALPHABET = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 324)]]
_EMBEDDING_ROWS = 4096  # made at a time


def write_model(
    path: Path,
    model: Model,
    *,
    layers: int,
    vocab: int,
    linear_type: str,
    head_type: str,
    tokenizer: Path | None = None,
) -> None:
    """A Llama graph with a tied head. All layers have the same weights: speed cannot tell.

    `linear_type` is TQ2_0, TQ1_0 (input widths that 256 divides) or Q4_0 (32): each holds ternary
    codes with one scale exactly, so all files of a model hold the same weights. `tokenizer` is a
    directory with a tokenizer.json of at most `vocab` tokens; without it every byte is a token, and
    the rest of the vocabulary is made up.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
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
    if tokenizer is None:
        _add_bytes_tokenizer(writer, vocab)
    else:
        add_keys(writer, tokenizer_keys(tokenizer, {"vocab_size": vocab}))

    head = gguf.GGMLQuantizationType[head_type]
    writer.add_tensor("token_embd.weight", _embedding(vocab, model.hidden, head), raw_dtype=head)
    ones = np.ones(model.hidden, dtype=np.float32)
    writer.add_tensor("output_norm.weight", ones)
    layer = _pack_layer(model, linear_type)
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


def _add_bytes_tokenizer(writer: gguf.GGUFWriter, vocab: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(ALPHABET + [f"t{i}" for i in range(vocab - len(ALPHABET))])
    writer.add_token_types([1] * vocab)
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(vocab - 1)


def _embedding(vocab: int, hidden: int, kind: gguf.GGMLQuantizationType) -> NDArray[np.generic]:
    random = np.random.default_rng(0)
    blocks = []
    for row in range(0, vocab, _EMBEDDING_ROWS):
        shape = (min(_EMBEDDING_ROWS, vocab - row), hidden)
        values = random.standard_normal(shape, dtype=np.float32)
        is_q6_k = kind == gguf.GGMLQuantizationType.Q6_K
        blocks.append(q6_k.quantize(values) if is_q6_k else gguf.quants.quantize(values, kind))
    return np.concatenate(blocks)


def _pack_layer(model: Model, linear_type: str) -> dict[str, NDArray[np.generic]]:
    """Tensor name (without the layer) to the bytes of its rows [N, row bytes]."""
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.generic]] = {}
    for linear in model.linears:
        for name in NAMES[linear.name]:
            codes = random.integers(-1, 2, (linear.n, linear.k), dtype=np.int8)
            scale = np.float16(1.2 / linear.k**0.5)
            if linear_type == "Q4_0":
                tensors[name] = _pack_q4_0(codes, scale)
            else:
                kind = gguf.GGMLQuantizationType[linear_type]
                tensors[name] = gguf.quants.quantize(codes * np.float32(scale), kind)
    return tensors


def _pack_q4_0(codes: NDArray[np.int8], scale: np.float16) -> NDArray[np.uint8]:
    """Blocks of 32: a float16 scale, then nibbles code + 8, columns j and j + 16 in one byte."""
    rows, columns = codes.shape
    nibbles = (codes + 8).astype(np.uint8).reshape(rows, columns // 32, 2, 16)
    packed = nibbles[:, :, 0] | nibbles[:, :, 1] << 4
    scales = np.full((rows, columns // 32, 1), scale).view(np.uint8)
    return np.concatenate([scales, packed], axis=2).reshape(rows, -1)
