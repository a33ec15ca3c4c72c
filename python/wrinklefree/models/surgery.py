"""quantize_: turn a Hugging Face model into its ternary form in place, and set its lambda."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from wrinklefree.errors import UsageError, nearest
from wrinklefree.models.bitlinear import BitLinear
from wrinklefree.models.blend import Blend
from wrinklefree.models.decoder import decoder_layers
from wrinklefree.models.quant_config import QUANT_METHOD, QuantConfig, check_lambda
from wrinklefree.models.subln import SubLN

# Owner of the norm, its Hugging Face BitNet name, and the owner's linear layer it feeds.
SUBLN_SITES = (("self_attn", "attn_sub_norm", "o_proj"), ("mlp", "ffn_sub_norm", "down_proj"))


def quantize_(model: PreTrainedModel, config: QuantConfig | None = None) -> None:
    """Replace the linear layers of every transformer block by BitLinear and add the SubLN norms.

    Weights and biases are taken over, not copied; embeddings and heads stay float. Gains start at
    1: call `calibrate_subln_` before training. `model.config.quantization_config` records it all.
    Raises UsageError for an unsupported family, a model that is already quantized, or names in
    `modules_to_not_convert` that are not in the model.
    """
    config = config or QuantConfig()
    layers = decoder_layers(model)
    _check_is_float(model)
    _check_names(model, config.modules_to_not_convert)

    blend = Blend(config.lam)
    eps = float(config.subln_eps or model.config.rms_norm_eps)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    for index, layer in enumerate(layers):
        _convert_linears(layer, f"{prefix}.{index}", config.modules_to_not_convert, blend)
        if config.subln == "subln":
            for owner, norm, linear in SUBLN_SITES:
                _add_norm(layer.get_submodule(owner), norm, linear, eps)
        elif config.subln == "all":
            for bit_linear in list(bit_linears(layer)):
                _add_norm(bit_linear, "norm", "", eps)
    model.config.quantization_config = replace(config, subln_eps=eps).to_json()


def bit_linears(module: nn.Module) -> Iterator[BitLinear]:
    """Every BitLinear of a module, in definition order."""
    return (child for child in module.modules() if isinstance(child, BitLinear))


@contextmanager
def quantized_once(model: nn.Module) -> Iterator[None]:
    """Inside, forward passes share weights that were quantized at the entry: a second copy of them.

    For evaluation. Neither weights nor lambda may change inside.
    """
    layers = list(bit_linears(model))
    for layer in layers:
        layer.hold_weight()
    try:
        yield
    finally:
        for layer in layers:
            layer.release_weight()


def get_lambda(model: nn.Module) -> float:
    """Blend lambda of a quantized model. Raises UsageError if it has no BitLinear."""
    return _blend(model).lam


def set_lambda(model: PreTrainedModel, lam: float) -> None:
    """Set the blend lambda, in [0, 1], of every quantizer and norm of the model."""
    check_lambda(lam)
    _blend(model).lam = float(lam)
    model.config.quantization_config["lambda"] = float(lam)


def set_int8_grad(model: PreTrainedModel, is_on: bool) -> None:
    """Whether gradients pass the ternary layers as int8 codes once lambda is 1 (on a CPU)."""
    _blend(model).int8_grad = is_on


def quant_config_of(model: PreTrainedModel) -> QuantConfig | None:
    """Configuration a quantized model was made with, lambda up to date; None for a float model."""
    fields = getattr(model.config, "quantization_config", None)
    if not isinstance(fields, dict) or fields.get("quant_method") != QUANT_METHOD:
        return None
    return QuantConfig.from_json(fields)


def _blend(model: nn.Module) -> Blend:
    linear = next(bit_linears(model), None)
    if linear is None:
        raise UsageError("the model has no ternary layers: call quantize_ first")
    return linear.blend


def _check_is_float(model: PreTrainedModel) -> None:
    present = getattr(model.config, "quantization_config", None)
    if present is not None or next(bit_linears(model), None):
        raise UsageError("quantize_ takes a float model, this one is quantized already")


def _is_listed(name: str, entries: tuple[str, ...]) -> bool:
    """Whether an entry is a run of whole dotted parts: "mlp" is in "layers.0.mlp.up_proj"."""
    return any(f".{entry}." in f".{name}." for entry in entries)


def _check_names(model: nn.Module, entries: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_modules()]
    for entry in entries:
        # lm_head is the default entry, and a bare decoder has none.
        if entry != "lm_head" and not any(_is_listed(name, (entry,)) for name in names):
            hint = nearest(entry, {part for name in names for part in (name, name.split(".")[-1])})
            raise UsageError(f"modules_to_not_convert: no module is called {entry!r}{hint}")


def _convert_linears(layer: nn.Module, prefix: str, skip: tuple[str, ...], blend: Blend) -> None:
    for name, module in list(layer.named_modules()):
        if isinstance(module, nn.Linear) and not _is_listed(f"{prefix}.{name}", skip):
            layer.set_submodule(name, BitLinear.from_linear(module, blend))


def _add_norm(owner: nn.Module, name: str, linear_name: str, eps: float) -> None:
    linear = owner.get_submodule(linear_name)
    if not isinstance(linear, BitLinear):
        raise UsageError(
            "SubLN placement 'subln' needs o_proj and down_proj as BitLinear: remove them from "
            "modules_to_not_convert or use subln 'none'"
        )
    norm = SubLN(linear.in_features, eps=eps, blend=linear.blend, device=linear.weight.device)
    owner.add_module(name, norm)
    linear.use_input_norm(norm)
