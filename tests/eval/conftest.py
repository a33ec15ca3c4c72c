"""A backend whose numbers can be worked out by hand, and wf-serve as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from wrinklefree.engine.results import Score
from wrinklefree.eval.backend import Answer, Question


class Scripted:
    """One token per byte; every token has log-probability -id / 100, whatever came before."""

    name = "scripted"
    max_context = 64
    BOS = 0

    def __init__(self, *, adds_bos: bool = False) -> None:
        self.adds_bos = adds_bos
        self.seen: list[list[int]] = []
        self.asked: list[Question] = []

    @property
    def bos_id(self) -> int | None:
        return self.BOS

    @property
    def eos_id(self) -> int | None:
        return None

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [self.BOS] * (add_special and self.adds_bos) + list(text.encode())

    def score(self, questions: Sequence[Question]) -> list[list[Score]]:
        self.asked += questions
        return [
            [Score(-sum(choice) / 100, len(choice), False) for choice in question.choices]
            for question in questions
        ]

    def logprobs(self, ids: Sequence[int]) -> np.ndarray:
        self.seen.append(list(ids))
        return -np.array(ids[1:]) / 100

    def generate(
        self, prompts: Sequence[list[int]], *, max_tokens: int, stop: Sequence[str] = ()
    ) -> list[Answer]:
        """The article's first bytes; it ends by itself when that is all of it."""
        articles = [bytes(ids).decode().split(": ")[1].rsplit("\n")[0] for ids in prompts]
        return [Answer(f" {text[:max_tokens]}", len(text) <= max_tokens) for text in articles]

    def close(self) -> None:
        pass


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture(scope="session")
def stories(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf"


@pytest.fixture(scope="session")
def byte_level_model(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokenizer cuts a text in the same places, alone (as we do with choices)
    or together with the prompt (as lm-eval does)."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("byte_level") / "model"
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "tokenizer_smollm2")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=2, initializer_range=0.5, **shape
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@contextmanager
def _serving(model: Path) -> Iterator[str]:
    command = [Path(sys.executable).with_name("wf-serve"), model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            lines = (re.search(r"http://[\w.:]+", line) for line in server.stdout)
            yield next(found[0] for found in lines if found)
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def wf_serve() -> Callable[[Path], AbstractContextManager[str]]:
    """wf_serve(model): the address of a server on a free port, while the context lasts."""
    return _serving
