"""The shapes of docs/recipes.md, small and random: trained, converted, and run by the engine.

What differs between the families: Qwen3 has q/k norms and heads wider than hidden size / heads,
Llama 3.2 scales its RoPE, and their vocabularies are not SmolLM2's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from wrinklefree import LLM
from wrinklefree.configs.compose import compose_run, group_choices
from wrinklefree.convert.plan import plan_gguf
from wrinklefree.convert.to_gguf import write_gguf
from wrinklefree.models import load_artifact
from wrinklefree.training.stages import run_stage

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 32, "hidden_size": 64}),
    "llama-3.2": ("llama", {"rope_parameters": LLAMA3, "hidden_size": 128}),
}


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_family_goes_through_the_chain(data_dir: Path, tmp_path: Path, shape: str) -> None:
    family, settings = SHAPES[shape]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=512,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(data_dir / "stories260k_hf" / name, base / name)
    stories = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text(encoding="utf-8")
    (tmp_path / "stories.txt").write_text(stories[:10_000], encoding="utf-8")
    text = f"data.path={tmp_path / 'stories.txt'}"
    small = ("data.max_length=64", "data.eval_rows=4", "training.batch_size=4")
    loop = ("training.steps=3", "training.lr=1e-3", "training.dtype=float32")
    teacher = (f"training.teacher={base}", "training.split_heads=8")

    def stage(name: str, parent: str, *more: str) -> None:
        where = (f"model.path={tmp_path / parent}", f"out={tmp_path / name}")
        run_stage(compose_run([f"training={name}", *where, text, *small, *more]))

    stage("stage1_subln", "base")
    stage("stage1_9_layerwise", "stage1_subln", *loop, *teacher)
    stage("stage2_pretrain", "stage1_9_layerwise", *loop)
    stage("stage3_distill", "stage2_pretrain", *loop, *teacher)

    student = tmp_path / "stage3_distill"
    path = tmp_path / "student.gguf"
    write_gguf(plan_gguf(student), path)
    ids = torch.randint(3, 512, (1, 300), generator=torch.Generator().manual_seed(1))
    targets = ids[0, 1:]
    with torch.no_grad():
        expected = float(F.cross_entropy(load_artifact(student).model(ids).logits[0, :-1], targets))
    for model in (student, path):
        with LLM(model, threads=1) as llm:
            logits = torch.from_numpy(llm.logits(ids[0].tolist()))
        assert float(F.cross_entropy(logits[:-1], targets)) == pytest.approx(expected, abs=0.01)


def test_every_model_of_the_page_has_a_configuration() -> None:
    page = Path(__file__).parents[2] / "docs" / "recipes.md"
    listed = [
        line.split("|")[1:3]
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    named = {name.strip(" `"): hub.strip() for name, hub in listed if "_" in name and "/" in hub}
    assert named.keys() == {name for name in group_choices("model") if name != "local"}
    for name, hub in named.items():
        run = compose_run([f"model={name}", "training=stage1_subln", "data.path=d", "out=o"])
        assert run.model.path == hub
