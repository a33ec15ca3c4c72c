"""Registers quant_method "wrinklefree" with transformers.

After this import `AutoModelForCausalLM.from_pretrained(artifact)` builds the model, replaces its
layers as `quantize_` does, and only then loads: trained SubLN gains survive, and a file that does
not fit the module exactly is an error instead of transformers' warning.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from wrinklefree.errors import UsageError
from wrinklefree.models.quant_config import QUANT_METHOD, QuantConfig
from wrinklefree.models.surgery import quantize_
from wrinklefree.models.weights import check_weights


@register_quantization_config(QUANT_METHOD)
class WrinklefreeConfig(QuantizationConfigMixin):
    """The `quantization_config` of config.json as transformers wants to see it."""

    def __init__(self, **fields: Any) -> None:
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # an enum of known methods
        self.quant = QuantConfig.from_json(fields)

    def to_dict(self) -> dict[str, Any]:
        return self.quant.to_json()


@register_quantizer(QUANT_METHOD)
class WrinklefreeQuantizer(HfQuantizer):
    """Builds BitLinear and SubLN modules before transformers loads the weights."""

    quantization_config: WrinklefreeConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            raise UsageError(
                "a float checkpoint cannot be loaded as a ternary one: load it without "
                "quantization_config and call quantize_"
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        # Rounding the masters would move weights over the ternary thresholds.
        return torch.float32

    def _process_model_before_weight_loading(
        self,
        model: PreTrainedModel,
        checkpoint_files: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        del model.config.quantization_config  # quantize_ takes a float model and writes its own
        quantize_(model, self.quantization_config.quant)
        if checkpoint_files is None:
            raise UsageError("a ternary model is loaded from its directory, not from a state dict")
        check_weights(model, checkpoint_files)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        # The plain dictionary is what set_lambda keeps up to date.
        model.config.quantization_config = self.quantization_config.to_dict()

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return True
