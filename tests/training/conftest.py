"""Tiny models, real text, and short runs of the stages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from wrinklefree.configs.compose import compose_run

Run = Callable[..., Path]

SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.fixture(autouse=True, scope="session")
def _single_thread() -> Iterator[None]:
    # Sums in one order, and no spinning threads on matrices this small.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stories(data_dir: Path) -> str:
    """The real trained tiny Llama."""
    return str(data_dir / "stories260k_hf")


@pytest.fixture(scope="session")
def corpus(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """20,000 characters of real stories."""
    text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("corpus") / "stories.txt"
    path.write_text(text[:20_000], encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def choices(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """120 real SST-2 sentences as choice records, of ragged length."""
    path = tmp_path_factory.mktemp("choices") / "sst2.jsonl"
    lines = (data_dir / "glue" / "sst2" / "validation.jsonl").read_text(encoding="utf-8")
    with path.open("w", encoding="utf-8") as file:
        for line in lines.splitlines()[:120]:
            row = json.loads(line)
            record = {
                "prompt": row["sentence"],
                "choices": [" bad", " good"],
                "label": row["label"],
            }
            file.write(json.dumps(record) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def random_models(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Untrained Llama and Qwen3 directories with the stories tokenizer."""
    torch.manual_seed(0)
    models = {
        "llama": LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False)),
    }
    paths = {}
    for name, model in models.items():
        path = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(path)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(data_dir / "stories260k_hf" / file, path / file)
        paths[name] = str(path)
    return paths


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a stage: run("stage2_pretrain", out, "data.path=...", ...)."""

    from wrinklefree.training.stages import run_stage

    def run(stage: str, out: Path, *settings: str) -> Path:
        small = ("data.max_length=32", "training.batch_size=4", "data.eval_rows=4")
        return run_stage(compose_run([f"training={stage}", f"out={out}", *small, *settings]))

    return run


def metrics_of(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The logged objects of one kind."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for line in lines if (entry := json.loads(line))["kind"] == kind]


@pytest.fixture(scope="session")
def read_metrics() -> Callable[..., list[dict[str, Any]]]:
    return metrics_of


@pytest.fixture(scope="session")
def chain(
    run: Run, stories: str, corpus: str, choices: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """All stages on the real tiny model, 16 steps each."""
    root = tmp_path_factory.mktemp("chain")
    text = (f"data.path={corpus}",)
    task = (f"data.path={choices}", "data.format=choice", "data.max_length=96")
    common = ("training.steps=16", "training.eval_every=8")
    made = {name: root / name for name in ("sft", "bitnet", "s1", "s19", "s2", "s3")}
    run("teacher_sft", made["sft"], f"model.path={stories}", *task, *common, "training.lr=1e-3")
    run("bitnet_sft", made["bitnet"], f"model.path={stories}", *task, *common, "training.lr=1e-3")
    run("stage1_subln", made["s1"], f"model.path={stories}", *text)
    run(
        "stage1_9_layerwise",
        made["s19"],
        f"model.path={made['s1']}",
        f"training.teacher={stories}",
        "training.lr=1e-3",
        *text,
        *common,
    )
    run(
        "stage2_pretrain",
        made["s2"],
        f"model.path={made['s19']}",
        "training.lr=1e-3",
        *text,
        *common,
    )
    run(
        "stage3_distill",
        made["s3"],
        f"model.path={made['s2']}",
        f"training.teacher={made['sft']}",
        "training.split_heads=8",
        "training.gamma=100",
        "training.lr=1e-3",
        *task,
        *common,
    )
    return made


@pytest.fixture(scope="session")
def update_golden() -> bool:
    """Whether golden numbers are written instead of compared: WF_UPDATE_GOLDEN=1."""
    return os.environ.get("WF_UPDATE_GOLDEN") == "1"
