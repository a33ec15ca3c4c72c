"""RoPE scaling of Llama 3: divisors against transformers, through a file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.convert.tiny_models import WIDE, edit_json, save_tiny_artifact
from wrinklefree.convert.agreement import verify_logits
from wrinklefree.convert.gguf_source import GgufSource
from wrinklefree.convert.plan import plan_gguf
from wrinklefree.convert.rope_divisors import divisors, parameters_of
from wrinklefree.convert.to_gguf import write_gguf
from wrinklefree.convert.to_hf import write_hf
from wrinklefree.errors import FormatError

# Llama-3.2-1B's own
RELEASED: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("head_dim", [64, 128])
def test_divisors_are_those_of_transformers(head_dim: int) -> None:
    config = LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        max_position_embeddings=131072,
        rope_parameters=RELEASED,
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = RELEASED["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    found = divisors(RELEASED, head_dim)
    np.testing.assert_allclose(found, plain / scaled.numpy(), rtol=1e-5)
    assert (found[0], found[-1]) == (1.0, 32.0)
    assert np.any((found > 1) & (found < 32))
    assert parameters_of(found, RELEASED["rope_theta"], head_dim) == RELEASED


def test_a_file_and_its_directory_keep_the_scaling(data_dir: Path, tmp_path: Path) -> None:
    artifact = save_tiny_artifact(
        *(tmp_path / "a", data_dir / "stories260k_hf"),
        **WIDE,
        max_position_embeddings=16384,
        rope_parameters=RELEASED,
    )
    path = tmp_path / "a.gguf"
    write_gguf(plan_gguf(artifact), path)
    assert verify_logits(artifact, path).mean_kl < 1e-4
    source = GgufSource(path)
    assert source.config["rope_parameters"] == RELEASED
    (tmp_path / "back").mkdir()
    write_hf(source, tmp_path / "back")
    assert verify_logits(path, tmp_path / "back").mean_kl < 1e-6


def test_the_older_spelling_means_the_same(data_dir: Path, tmp_path: Path) -> None:
    """Before transformers 5: rope_scaling, whose type may be called `type`, beside rope_theta."""
    artifact = save_tiny_artifact(
        *(tmp_path / "a", data_dir / "stories260k_hf"),
        **WIDE,
        max_position_embeddings=16384,
        rope_parameters=RELEASED,
    )
    scaling = {key: value for key, value in RELEASED.items() if not key.startswith("rope_")}
    edit_json(
        artifact / "config.json",
        rope_parameters=None,
        rope_theta=RELEASED["rope_theta"],
        rope_scaling={"type": "llama3", **scaling},
    )
    path = tmp_path / "a.gguf"
    write_gguf(plan_gguf(artifact), path)
    assert GgufSource(path).config["rope_parameters"] == RELEASED


def test_an_unknown_formula_is_refused() -> None:
    found = divisors(RELEASED, 64)
    with pytest.raises(FormatError, match=r"rope_freqs\.weight is not"):
        parameters_of(found**2, RELEASED["rope_theta"], 64)
    with pytest.raises(FormatError, match=r"rope_freqs\.weight is not"):
        parameters_of(found[:-1], RELEASED["rope_theta"], 64)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(FormatError, match="impossible"):
        divisors(RELEASED | {"high_freq_factor": 1.0}, 64)
