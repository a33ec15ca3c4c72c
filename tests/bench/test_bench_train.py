"""`wf bench train` measures all variants of one model, on the same parameters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wrinklefree import reference
from wrinklefree.bench import train
from wrinklefree.bench.shapes import Model

TINY = Model("tiny", 2, 32, 48, 4, 2, 8, 100)
PLAN = train.TrainPlan(shape=TINY, threads=1, batch=2, length=8, steps=1)


def test_the_command_prints_one_object() -> None:
    command = [str(Path(sys.executable).with_name("wf")), "bench", "train", "--json"]
    small = ["--layers", "1", "--batch", "1", "--length", "4", "--steps", "1", "--threads", "1"]
    result = subprocess.run([*command, *small], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["batch"] * figures["length"] == 4
    for variant in ("plain_bf16", "qat", "qat_int8_grad", "qat_ramp", "qat_eager"):
        assert figures[f"{variant}_tok_s"] > 0
    # 28.3M of the embedding and 3.5M of the layer, each with a gradient and two moments.
    assert figures["peak_rss_mib"] > 4 * 31.8e6 * 4 / 2**20


def test_variants_share_parameters_and_ternary_ones_agree() -> None:
    torch.manual_seed(0)
    models = train._variants(TINY)
    batch = train._random_batch(PLAN)
    hidden = {name: train.decode(model, batch).last_BLD.detach() for name, model in models.items()}
    torch.testing.assert_close(hidden["qat_eager"], hidden["qat"], rtol=0.1, atol=0.1)
    for other in ("plain_bf16", "qat_ramp"):
        assert float((hidden[other] - hidden["qat"]).abs().max()) > 0.5
    shared = {id(parameter) for parameter in models["qat"].parameters()}
    assert all(id(p) in shared for model in models.values() for p in model.parameters())


@pytest.mark.peer
def test_torchao_trains_the_same_layers() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    torch.manual_seed(0)
    shape = TINY._replace(hidden=64, ffn=128, head_dim=16)
    plain = train._variants(shape)["plain_bf16"]
    model = train.torchao_model(plain)
    with torch.no_grad():
        for layer in plain.model.layers:
            for linear in (m for m in layer.modules() if isinstance(m, torch.nn.Linear)):
                linear.weight.copy_(reference.fake_quant_ternary(linear.weight, 1.0))
    batch = train._random_batch(PLAN)
    hidden = train.decode(model, batch).last_BLD.float()
    ours = train.decode(plain, batch).last_BLD
    # The same ternary weights; bfloat16 sums and int8 activations in torchao's.
    torch.testing.assert_close(hidden, ours, rtol=0.1, atol=0.15)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = model.model.layers[0].mlp.up_proj.weight._data.clone()
    train._step(model, batch, optimizer)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight._data, before)


@pytest.mark.parametrize("variant", ["plain_bf16", "qat", "qat_int8_grad", "qat_ramp", "qat_eager"])
def test_a_step_updates_every_parameter(variant: str) -> None:
    model = train._variants(TINY)[variant]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train._step(model, train._random_batch(PLAN), optimizer)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
