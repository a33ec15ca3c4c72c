"""Ternary models: conversion of a pretrained model, its calibration, and the artifact on disk.

Importing this package registers the quantization method "wrinklefree" with transformers.
"""

from __future__ import annotations

from wrinklefree.models.attention_states import AttentionStates, capture_attention
from wrinklefree.models.bitlinear import BitLinear
from wrinklefree.models.calibration import calibrate_subln_
from wrinklefree.models.checkpoint import (
    Loaded,
    is_artifact,
    load_artifact,
    save_artifact,
    write_artifact,
)
from wrinklefree.models.decoder import SUPPORTED_FAMILIES, decoder_layers, run_layer
from wrinklefree.models.hf_quantizer import WrinklefreeConfig, WrinklefreeQuantizer
from wrinklefree.models.manifest import Manifest, artifact_hash, read_manifest
from wrinklefree.models.quant_config import QuantConfig
from wrinklefree.models.staging import staged_directory
from wrinklefree.models.subln import SubLN
from wrinklefree.models.surgery import (
    bit_linears,
    get_lambda,
    quant_config_of,
    quantize_,
    quantized_once,
    set_lambda,
)
from wrinklefree.models.teacher import load_teacher

__all__ = [
    "SUPPORTED_FAMILIES",
    "AttentionStates",
    "BitLinear",
    "Loaded",
    "Manifest",
    "QuantConfig",
    "SubLN",
    "WrinklefreeConfig",
    "WrinklefreeQuantizer",
    "artifact_hash",
    "bit_linears",
    "calibrate_subln_",
    "capture_attention",
    "decoder_layers",
    "get_lambda",
    "is_artifact",
    "load_artifact",
    "load_teacher",
    "quant_config_of",
    "quantize_",
    "quantized_once",
    "read_manifest",
    "run_layer",
    "save_artifact",
    "set_lambda",
    "staged_directory",
    "write_artifact",
]
