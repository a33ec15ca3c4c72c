"""Every RoPE scaling against transformers, on a real model that was trained without one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.engine.conftest import all_logits
from wrinklefree import _engine

TOKENS = [1, *range(3, 300)]
YARN = {"rope_type": "yarn", "original_max_position_embeddings": 64, "factor": 8.0}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": YARN,
    "yarn-fractions": YARN | {"truncate": False},
    "yarn-betas": YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 0.9},
    "yarn-mscale": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2},
}


@pytest.mark.parametrize("name", ROPES)
def test_logits_are_those_of_transformers(stories_dir: Path, tmp_path: Path, name: str) -> None:
    for file in stories_dir.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 10000.0, **ROPES[name]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.tensor([TOKENS])).logits[0].numpy()
    actual = all_logits(_engine.Model(str(tmp_path)), TOKENS)
    np.testing.assert_allclose(actual, expected, atol=2e-3)
    if name != "default":  # the scaling matters: the test can fail
        unscaled = all_logits(_engine.Model(str(stories_dir)), TOKENS)
        assert np.abs(unscaled - expected).max() > 0.1
