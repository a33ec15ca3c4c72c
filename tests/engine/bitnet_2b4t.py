"""Random models in files like microsoft/bitnet-b1.58-2B-4T-gguf, and transformers' BitNet on their
weights.

Keys, tensors, types and widths are those of the published file; layers and tokens are fewer. The
bytes are made here with numpy and the gguf package alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from numpy.typing import NDArray
from torch import nn
from transformers import BitNetConfig, BitNetForCausalLM

from wrinklefree import _engine

I2_S = 36
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
# "User: Hello<|eot_id|>Assistant: ", behind the first token of a text.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ m['role'] | capitalize }}: {{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
# GGUF name and Hugging Face name within a layer.
MATRICES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GAINS = {
    "attn_norm": "input_layernorm",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model; 2B-4T has 30 layers and 128256 tokens."""

    architecture: str = "bitnet-b1.58"
    hidden: int = 2560
    ffn: int = 6912
    head_dim: int = 128
    heads: int = 20
    kv_heads: int = 5
    layers: int = 2
    vocab: int = 4096
    is_tied: bool = True
    pre_tokenizer: str | None = None  # the published file has none

    def matrix(self, name: str) -> tuple[int, int]:
        """[N, K] of a matrix of MATRICES."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "attn_q": (q, self.hidden),
            "attn_k": (kv, self.hidden),
            "attn_v": (kv, self.hidden),
            "attn_output": (self.hidden, q),
            "ffn_gate": (self.ffn, self.hidden),
            "ffn_up": (self.ffn, self.hidden),
            "ffn_down": (self.hidden, self.ffn),
        }[name]


@dataclass(frozen=True, slots=True)
class Weights:
    """By GGUF name: floats, and int8 codes [N, K] with their scale."""

    floats: dict[str, NDArray[np.floating]]
    ternary: dict[str, tuple[NDArray[np.int8], np.float32]]


def random_weights(shape: Shape) -> Weights:
    """Every tensor moves the logits: heads look at some tokens more than at others, and layers add
    ten times the embedding, or the tied head would only see the token that went in."""
    rng = np.random.default_rng(0)
    floats: dict[str, NDArray[np.floating]] = {}
    ternary: dict[str, tuple[NDArray[np.int8], np.float32]] = {}

    def normal(rows: int) -> NDArray[np.float16]:
        return (0.05 * rng.standard_normal((rows, shape.hidden), np.float32)).astype(np.float16)

    def gain(width: int) -> NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, width).astype(np.float32)

    floats["token_embd"] = normal(shape.vocab)
    for layer in range(shape.layers):
        for name in MATRICES:
            n, k = shape.matrix(name)
            codes = rng.integers(-1, 2, (n, k), dtype=np.int8)
            size = {"attn_q": 1.5, "attn_k": 1.5, "attn_output": 0.5, "ffn_down": 0.5}
            spread = size.get(name, 1.0) * rng.uniform(0.9, 1.1)  # of outputs to inputs of size 1
            ternary[f"blk.{layer}.{name}"] = codes, np.float32(spread / (2 / 3 * k) ** 0.5)
        for name in GAINS:
            width = {"attn_sub_norm": shape.heads * shape.head_dim, "ffn_sub_norm": shape.ffn}
            floats[f"blk.{layer}.{name}"] = gain(width.get(name, shape.hidden))
    floats["output_norm"] = gain(shape.hidden)
    if not shape.is_tied:
        floats["output"] = normal(shape.vocab)
    return Weights(floats, ternary)


def i2s_bytes(codes: NDArray[np.int8], scale: np.float32) -> NDArray[np.uint8]:
    """128 weights of the flat matrix in 32 bytes, the first 32 in the high bits; then the scale."""
    digits = (codes.reshape(-1, 4, 32) + 1).astype(np.uint8)
    packed = digits[:, 0] << 6 | digits[:, 1] << 4 | digits[:, 2] << 2 | digits[:, 3]
    tail = np.zeros(32, np.uint8)
    tail[:4] = np.frombuffer(np.float32(scale).tobytes(), np.uint8)
    return np.concatenate([packed.reshape(-1), tail])


def write_file(path: Path, shape: Shape, weights: Weights, vocabulary: Path) -> None:
    """The model with the first tokens of the GGUF vocabulary at `vocabulary`, SPECIAL behind."""
    writer = GGUFWriter(path, shape.architecture)
    writer.add_name("bitnet2b")
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_add_bos_token(True)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_file_type(40)
    add_vocabulary(writer, shape, vocabulary)
    writer.add_quantization_version(2)
    for name, values in weights.floats.items():
        writer.add_tensor(f"{name}.weight", values)
    for name, (codes, scale) in weights.ternary.items():
        # A dtype other than uint8 makes the writer keep the shape of the codes.
        packed = i2s_bytes(codes, scale)
        writer.add_tensor_info(
            f"{name}.weight", codes.shape, np.dtype(np.float32), packed.nbytes, raw_dtype=I2_S
        )
        writer.tensors[-1][f"{name}.weight"].tensor = packed
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: GGUFWriter, shape: Shape, vocabulary: Path) -> None:
    """Byte-level BPE: of a vocabulary in the order of its merges any beginning is one too."""
    metadata = _engine.GgufFile(str(vocabulary)).metadata
    texts = shape.vocab - len(SPECIAL)
    tokens = metadata["tokenizer.ggml.tokens"][:texts]
    merges = metadata["tokenizer.ggml.merges"][: texts - 256]
    writer.add_tokenizer_model("gpt2")
    if shape.pre_tokenizer is not None:
        writer.add_tokenizer_pre(shape.pre_tokenizer)
    writer.add_token_list([*tokens, *SPECIAL])
    writer.add_token_scores([0.0] * shape.vocab)
    writer.add_token_types([1] * texts + [3] * len(SPECIAL))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(texts)
    writer.add_eos_token_id(texts + 1)
    writer.add_pad_token_id(texts + 1)
    writer.add_chat_template(CHAT_TEMPLATE)


class QuantizedLinear(nn.Module):
    """scale * codes on int8 activations; the sums of integers are exact in float32."""

    def __init__(self, codes: NDArray[np.int8], scale: np.float32) -> None:
        super().__init__()
        self.codes_NK = torch.from_numpy(codes).float()
        self.scale = float(scale)
        self.quantizes = True
        self.last_input: torch.Tensor | None = None

    def forward(self, x_BLK: torch.Tensor) -> torch.Tensor:
        if not self.quantizes:
            return nn.functional.linear(x_BLK, self.codes_NK) * self.scale
        largest = x_BLK.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        self.last_input = torch.clamp(torch.round(x_BLK * (127 / largest)), -128, 127)
        return nn.functional.linear(self.last_input, self.codes_NK) * (largest / 127 * self.scale)


def reference_model(shape: Shape, weights: Weights) -> BitNetForCausalLM:
    """transformers' model of these weights, float32 but for its QuantizedLinear layers."""
    config = BitNetConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=shape.is_tied,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):  # nothing is drawn that would be thrown away
        model = BitNetForCausalLM(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    for name, (codes, scale) in weights.ternary.items():
        _, layer, matrix = name.split(".")
        module = f"model.layers.{layer}.{MATRICES[matrix]}"
        model.set_submodule(module, QuantizedLinear(codes, scale))
    floats = {hf_name(name): torch.from_numpy(v).float() for name, v in weights.floats.items()}
    if shape.is_tied:
        floats["lm_head.weight"] = floats["model.embed_tokens.weight"]
    model.load_state_dict(floats, assign=True)
    return model.eval()


def hf_name(name: str) -> str:
    """Hugging Face name of a float tensor."""
    outside: Mapping[str, str] = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    }
    if name in outside:
        return f"{outside[name]}.weight"
    _, layer, gain = name.split(".")
    return f"model.layers.{layer}.{GAINS[gain]}.weight"


def quantized_linears(module: nn.Module) -> Sequence[tuple[str, QuantizedLinear]]:
    """(q, ...), (k, ...), ...: the ternary layers of a module, by the engine's names."""
    return [
        (name.split(".")[-1].removesuffix("_proj"), child)
        for name, child in module.named_modules()
        if isinstance(child, QuantizedLinear)
    ]
