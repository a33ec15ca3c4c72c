"""The real 512-token tokenizer of stories260K."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase


@pytest.fixture(scope="session")
def tokenizer(data_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(data_dir / "stories260k_hf")
