"""Models of zeros in sparse files: large to load, nothing on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import numpy as np

from tests.convert.tiny_models import LLAMA_CONFIG
from wrinklefree.convert.gguf_names import to_hf_name

HEAD_DIM = 64
Shapes = dict[str, tuple[int, ...]]


def llama_shapes(*, layers: int, hidden: int, ffn: int, vocab: int) -> Shapes:
    """Shapes of all tensors by GGUF name."""
    shapes: Shapes = {"token_embd": (vocab, hidden), "output_norm": (hidden,)}
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}": (hidden,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{name}": (ffn, hidden) for name in ("gate", "up")}
        shapes[f"blk.{i}.ffn_down"] = (hidden, ffn)
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def write_sparse_gguf(path: Path, *, layers: int, hidden: int, ffn: int, vocab: int) -> Path:
    """TQ2_0 with an F16 embedding."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(hidden // HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    size = 0
    types = gguf.GGMLQuantizationType
    shapes = llama_shapes(layers=layers, hidden=hidden, ffn=ffn, vocab=vocab)
    for name, shape in shapes.items():
        kind = types.F32 if len(shape) == 1 else types.TQ2_0
        if name == "token_embd.weight":
            kind = types.F16
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        num_bytes = int(np.prod(stored))
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), num_bytes, kind)
        size += -(-num_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + size)
    return path


def write_sparse_artifact(
    directory: Path, *, layers: int, hidden: int, ffn: int, vocab: int
) -> Path:
    """Float32 masters that are made ternary on the way in, and a float32 embedding."""
    config = {
        **LLAMA_CONFIG,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": hidden // HEAD_DIM,
        "vocab_size": vocab,
        "quantization_config": {
            "quant_method": "wrinklefree",
            "scheme": "ternary",
            "subln": "none",
            "subln_eps": None,
            "lambda": 1.0,
            "modules_to_not_convert": ["lm_head"],
        },
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    shapes = llama_shapes(layers=layers, hidden=hidden, ffn=ffn, vocab=vocab)
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[to_hf_name(name)] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    path = directory / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return directory
