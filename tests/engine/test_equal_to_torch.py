"""Engine and PyTorch BitLinear model: equal as far as int8 rounding lets two programs be equal.

(a) One layer, fed with PyTorch's own input: at most one int8 code in a thousand differs, by one
step, and with equal codes the outputs agree to 1e-5. (b) Without activation quantization log
probabilities agree to 1e-3. (c) End to end the two differ at most twice as much as PyTorch's own
attention implementations do, and perplexity agrees to 1 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.engine.conftest import all_logits
from wrinklefree import _engine, reference
from wrinklefree.engine import Tokenizer
from wrinklefree.models import Manifest, QuantConfig, quantize_, save_artifact
from wrinklefree.models.bitlinear import BitLinear
from wrinklefree.models.decoder import run_layer

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
# heads * head_dim is not hidden_size, and no width is a multiple of 64.
SHAPE = {
    "vocab_size": 131,
    "hidden_size": 96,
    "intermediate_size": 168,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "max_position_embeddings": 256,
}


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """More threads only wait for each other on models this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Left float: a matrix beside ternary ones that read the same, all that do, and one alone.
FLOAT_MODULES = ("k_proj", "layers.1.mlp", "layers.2.self_attn.o_proj")


def random_student(
    family: str,
    subln: str,
    *,
    is_tied: bool,
    float_modules: tuple[str, ...] = (),
    **overrides: int,
) -> PreTrainedModel:
    torch.manual_seed(0)
    config_class, model_class = FAMILIES[family]
    model = model_class(config_class(**{**SHAPE, **overrides}, tie_word_embeddings=is_tied)).eval()
    quantize_(model, QuantConfig(subln=subln, modules_to_not_convert=("lm_head", *float_modules)))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return model


@pytest.fixture(
    scope="module",
    params=[
        "llama-subln-tied",
        "llama-all",
        "qwen2-none",
        "qwen2-subln",
        "qwen2-all-mixed",
        "qwen3-subln",
        "qwen3-none-tied",
        "qwen3-all-tied",
    ],
)
def student(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Path]:
    family, subln, *more = request.param.split("-")
    float_modules = FLOAT_MODULES if "mixed" in more else ()
    model = random_student(family, subln, is_tied="tied" in more, float_modules=float_modules)
    path = tmp_path_factory.mktemp("artifact") / request.param
    save_artifact(model, None, path, Manifest(stage="test"))
    return model, path


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, SHAPE["vocab_size"], (1, 100), generator=torch.manual_seed(1))


def int8_codes(x: torch.Tensor) -> np.ndarray:
    return reference.quantize_act_int8(x)[0].numpy()


def layer_with_codes(
    model: PreTrainedModel, index: int, hidden: torch.Tensor
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Output of a PyTorch layer and the int8 inputs of its products, by the engine's names."""
    layer = model.model.layers[index]
    readers = {
        name.split(".")[-1].removesuffix("_proj"): module
        for name, module in layer.named_modules()
        if isinstance(module, BitLinear)
    }
    codes: dict[str, np.ndarray] = {}

    def record(name: str, linear: BitLinear) -> torch.utils.hooks.RemovableHandle:
        def before(_module: BitLinear, args: tuple[torch.Tensor]) -> None:
            x = args[0] if linear.input_norm is None else linear.input_norm(args[0])
            codes[name] = int8_codes(x[0])

        return linear.register_forward_pre_hook(before)

    handles = [record(name, linear) for name, linear in readers.items()]
    output = run_layer(model, index, hidden)
    for handle in handles:
        handle.remove()
    return output[0].numpy(), codes


@torch.no_grad()
def test_a_layer_fed_with_pytorchs_input_has_its_codes_and_output(
    student: tuple[PreTrainedModel, Path], tokens: torch.Tensor
) -> None:
    model, path = student
    engine = _engine.Model(str(path))
    assert engine.info["ternary_parameters"] > 0
    assert engine.info["subln"] == model.config.quantization_config["subln"]
    inputs = model(tokens, output_hidden_states=True).hidden_states
    for index in range(SHAPE["num_hidden_layers"]):
        expected, codes = layer_with_codes(model, index, inputs[index])
        ours = engine.layer_io(index, inputs[index][0].numpy())
        assert {name for name in ours if name.endswith("_codes")} == {f"{n}_codes" for n in codes}
        steps = {
            name: np.abs(ours[f"{name}_codes"].astype(int) - theirs.astype(int))
            for name, theirs in codes.items()
        }
        # One other code of a key or value is seen by all rows behind it, through attention.
        first = np.concatenate([steps[name] for name in ("q", "k", "v") if name in steps], axis=1)
        assert (first > 0).mean() <= 1e-3
        is_untouched = np.logical_and.accumulate(~(first > 0).any(axis=1))
        every = np.concatenate(list(steps.values()), axis=1)
        assert every.max() <= 1
        assert (every[is_untouched] > 0).mean() <= 1e-3
        are_equal = np.logical_and.accumulate(~(every > 0).any(axis=1))
        assert are_equal.any()
        error = np.abs(ours["output"] - expected)[are_equal].max()
        assert error <= 1e-5 * np.abs(expected).max()


@torch.no_grad()
def test_b_without_activation_quantization_log_probabilities_agree(
    student: tuple[PreTrainedModel, Path], tokens: torch.Tensor
) -> None:
    model, path = student
    engine = _engine.Model(str(path), act_quant=False)
    assert engine.info["ternary_parameters"] > 0  # kept as codes, unpacked some rows at a time
    # The same model with weights s * code and plain linear layers behind the same norms.
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.forward = dequantized_forward(module)
    try:
        theirs = torch.log_softmax(model(tokens).logits[0], -1)
    finally:
        for module in model.modules():
            module.__dict__.pop("forward", None)
    ours = torch.log_softmax(torch.from_numpy(all_logits(engine, tokens[0].tolist())), -1)
    assert float((ours - theirs).abs().max()) < 1e-3


def dequantized_forward(layer: BitLinear) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = layer.ternary().float() * layer.scale

    def forward(x: torch.Tensor) -> torch.Tensor:
        if layer.input_norm is not None:
            x = layer.input_norm(x)
        return linear(x, weight, layer.bias)

    return forward


def mean_kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> float:
    p, q = (torch.log_softmax(x.double(), -1) for x in (p_logits, q_logits))
    return float((p.exp() * (p - q)).sum(-1).mean())


@torch.no_grad()
@pytest.mark.parametrize("subln", ["subln", "all"])
def test_c_a_deep_model_differs_at_most_twice_as_much_as_eager_from_sdpa(
    tmp_path: Path, subln: str
) -> None:
    """24 layers: deep enough for roundings to spread. In a few layers hardly a code flips, and two
    programs that differ in every operation are further apart than two that share all but one."""
    shape = {"vocab_size": 512, "hidden_size": 192, "intermediate_size": 384, "head_dim": 32}
    model = random_student("qwen3", subln, is_tied=True, num_hidden_layers=24, **shape)
    save_artifact(model, None, tmp_path / "artifact", Manifest(stage="test"))
    engine = _engine.Model(str(tmp_path / "artifact"))
    between_torch, between_programs = [], []
    for seed in range(3):
        tokens = torch.randint(0, 512, (1, 200), generator=torch.manual_seed(seed))
        model.set_attn_implementation("sdpa")
        sdpa = model(tokens).logits[0]
        model.set_attn_implementation("eager")
        eager = model(tokens).logits[0]
        ours = torch.from_numpy(all_logits(engine, tokens[0].tolist()))
        between_torch.append(mean_kl(eager, sdpa))
        between_programs.append(mean_kl(eager, ours))
    assert np.mean(between_programs) <= 2 * np.mean(between_torch)


@torch.no_grad()
@pytest.mark.parametrize("subln", ["none", "subln", "all"])
def test_c_perplexity_of_real_text_agrees(
    stories_dir: Path, data_dir: Path, tmp_path: Path, subln: str
) -> None:
    """The trained stories260K, quantized, on 500 tokens of a story."""
    model = LlamaForCausalLM.from_pretrained(stories_dir).eval()
    quantize_(model, QuantConfig(subln=subln))
    save_artifact(model, None, tmp_path / "artifact", Manifest(stage="test"))
    text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text()[:4000]
    window = torch.tensor([Tokenizer.from_dir(stories_dir).encode(text)[:500]])
    ours = torch.from_numpy(
        all_logits(_engine.Model(str(tmp_path / "artifact")), window[0].tolist())
    )
    theirs = model(window).logits[0]
    losses = [cross_entropy(logits[:-1], window[0, 1:]).item() for logits in (ours, theirs)]
    assert abs(losses[0] - losses[1]) < 0.01
