"""A file like Microsoft's BitNet b1.58 2B-4T, against transformers' model of the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BitNetForCausalLM

from tests.engine.bitnet_2b4t import (
    SPECIAL,
    Shape,
    quantized_linears,
    random_weights,
    reference_model,
    write_file,
)
from tests.engine.conftest import all_logits
from wrinklefree import LLM, _engine
from wrinklefree.engine import SamplingParams
from wrinklefree.engine.chat_template import chat_ids

SHAPES = {
    # All widths of a layer.
    "2b-4t": Shape(),
    # The name and the tensors of the first release, and a file that names its pre-tokenizer.
    "bitnet-25": Shape(
        architecture="bitnet-25",
        hidden=640,
        ffn=1792,
        head_dim=32,
        vocab=1024,
        is_tied=False,
        pre_tokenizer="llama-bpe",
    ),
}
TEXT = "The quick brown fox jumps over the lazy dog. It isn't 12345 but the dog's 6789 lazy foxes."


@dataclass(frozen=True, slots=True)
class Twin:
    path: Path
    shape: Shape
    model: BitNetForCausalLM


@pytest.fixture(scope="module", params=SHAPES)
def twin(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twin]:
    vocabulary = data_dir / "gguf_vocab" / "ggml-vocab-gpt-2.gguf"
    if not vocabulary.is_file():
        pytest.skip(f"no {vocabulary}: the file's tokens are the first ones of GPT-2")
    shape = SHAPES[request.param]
    path = tmp_path_factory.mktemp("twin") / "ggml-model-i2_s.gguf"
    weights = random_weights(shape)
    write_file(path, shape, weights, vocabulary)
    yield Twin(path, shape, reference_model(shape, weights))
    path.unlink()


@pytest.fixture
def tokens(twin: Twin) -> torch.Tensor:
    return torch.randint(0, twin.shape.vocab, (1, 40), generator=torch.manual_seed(1))


def log_probabilities(logits: np.ndarray | torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(torch.as_tensor(logits).double(), -1)


def test_the_file_is_read_as_what_it_is(twin: Twin) -> None:
    shape = twin.shape
    info = _engine.Model(str(twin.path)).info
    ternary = shape.layers * sum(np.prod(shape.matrix(name)) for name in ("attn_q", "attn_output"))
    ternary += shape.layers * 2 * np.prod(shape.matrix("attn_k"))
    ternary += shape.layers * 3 * np.prod(shape.matrix("ffn_down"))
    assert info["ternary_parameters"] == ternary
    assert (info["act"], info["subln"], info["tied"]) == ("relu2", "subln", shape.is_tied)
    assert (info["num_heads"], info["num_kv_heads"]) == (20, 5)
    assert (info["head_dim"], info["rope_theta"]) == (shape.head_dim, 500000.0)
    assert info["notes"] == []


@torch.no_grad()
def test_a_layer_fed_with_transformers_input_has_its_codes_and_output(
    twin: Twin, tokens: torch.Tensor
) -> None:
    engine = _engine.Model(str(twin.path))
    layers = twin.model.model.layers
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, args, output: seen.append((args[0][0].numpy(), output[0].numpy()))
        )
        for layer in layers
    ]
    twin.model(tokens)
    for hook in hooks:
        hook.remove()
    for index, (given, expected) in enumerate(seen):
        ours = engine.layer_io(index, given)
        assert ours["output"].shape == expected.shape
        steps = np.concatenate(
            [
                np.abs(ours[f"{name}_codes"] - linear.last_input[0].numpy())
                for name, linear in quantized_linears(layers[index])
            ],
            axis=1,
        )
        assert steps.max() <= 1
        assert (steps > 0).mean() <= 1e-3
        # A row also sees the codes of the rows before it, through attention.
        are_equal = np.logical_and.accumulate(~(steps > 0).any(axis=1))
        assert are_equal.any()
        error = np.abs(ours["output"] - expected)[are_equal].max()
        assert error <= 1e-5 * np.abs(expected).max()


@torch.no_grad()
def test_b_without_activation_quantization_log_probabilities_agree(
    twin: Twin, tokens: torch.Tensor
) -> None:
    linears = quantized_linears(twin.model)
    for _, linear in linears:
        linear.quantizes = False
    try:
        theirs = log_probabilities(twin.model(tokens).logits[0])
    finally:
        for _, linear in linears:
            linear.quantizes = True
    engine = _engine.Model(str(twin.path), act_quant=False)
    ours = log_probabilities(all_logits(engine, tokens[0].tolist()))
    assert float((ours - theirs).abs().max()) < 1e-3


@torch.no_grad()
def test_c_log_probabilities_and_perplexity_agree(twin: Twin, tokens: torch.Tensor) -> None:
    """One int8 code that flips in the first layer gives a mean KL of 5e-4 (engine against this
    model, and its eager against its sdpa attention)."""
    theirs = log_probabilities(twin.model(tokens).logits[0])
    ours = log_probabilities(all_logits(_engine.Model(str(twin.path)), tokens[0].tolist()))
    assert float((theirs.exp() * (theirs - ours)).sum(-1).mean()) < 1e-3
    losses = [-p[:-1].gather(1, tokens[0, 1:, None]).mean().item() for p in (ours, theirs)]
    assert abs(losses[0] - losses[1]) < 0.01


@torch.no_grad()
def test_text_goes_in_and_comes_out(twin: Twin) -> None:
    """Each token is the likeliest of transformers' model too, but for near-ties of 0.3 nats."""
    with LLM(twin.path) as llm:
        result = llm.generate(TEXT, max_tokens=12, sampling=SamplingParams(temperature=0))
        prompt = llm.tokenizer.encode(TEXT)
        assert prompt[0] == llm.tokenizer.bos_id == llm.tokenizer.special_tokens[SPECIAL[0]]
        assert llm.tokenizer.decode(prompt[1:]) == TEXT
        assert result.text == llm.tokenizer.decode(result.token_ids)
    tokens = [*prompt, *result.token_ids]
    theirs = log_probabilities(twin.model(torch.tensor([tokens[:-1]])).logits[0])
    theirs = theirs[len(prompt) - 1 :]
    chosen = theirs.gather(1, torch.tensor(result.token_ids)[:, None])[:, 0]
    assert float((theirs.amax(-1) - chosen).max()) < 0.3


def test_a_chat_is_written_as_the_template_says(twin: Twin) -> None:
    with LLM(twin.path) as llm:
        encode, special = llm.tokenizer.encode, llm.tokenizer.special_tokens
        begin, _, turn_end = (special[token] for token in SPECIAL)
        user, assistant = (encode(t, add_special=False) for t in ("User: Hello", "Assistant: "))
        ids = chat_ids(llm.tokenizer, [{"role": "user", "content": "Hello"}])
        assert list(ids) == [begin, *user, turn_end, *assistant]
