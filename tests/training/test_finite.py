"""A loss or gradient that is not finite stops the run and names its origin; checkpoints stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from wrinklefree.data.loader import Batch, collate
from wrinklefree.data.packing import tokenize
from wrinklefree.data.records import TextRecord
from wrinklefree.models.checkpoint import load_artifact
from wrinklefree.models.manifest import read_manifest
from wrinklefree.training.finite import NonFiniteError, loss_error, watch_gradients
from wrinklefree.training.objective import Objective, build_objective
from wrinklefree.training.update import Update


@pytest.fixture
def model(random_models: dict[str, str]) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(random_models["llama"])


@pytest.fixture
def batch(stories: str) -> Batch:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)
    return collate(tokenize([TextRecord("One day")], tokenizer, max_length=16), (0,))


def test_the_first_bad_module_is_named(model: LlamaForCausalLM, batch: Batch) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.inf
    error = loss_error(torch.tensor(torch.nan), model, batch, step=7)
    assert re.search(r"step 7: .*layers\.1\.mlp\.up_proj.*rows 0.*lr", str(error))


@pytest.mark.parametrize("is_output", [True, False])
def test_the_first_bad_gradient_of_the_backward_pass_is_named(
    model: LlamaForCausalLM, batch: Batch, is_output: bool
) -> None:
    """What comes before it in the model is NaN too, the norm and the head after it are not."""
    module = model.model.layers[1].mlp.up_proj
    if is_output:
        module.register_forward_hook(
            lambda *given: given[-1].register_hook(lambda gradient: gradient * torch.inf) and None
        )
    else:
        module.weight.register_hook(lambda gradient: gradient * torch.inf)
    with watch_gradients(model) as found:
        model(input_ids=batch.tokens_BL).logits.sum().backward()
    expected = "the output of {}" if is_output else "{}.weight"
    assert found[0] == expected.format("model.layers.1.mlp.up_proj")
    assert (len(found) > 1) == is_output
    with watch_gradients(model) as later:
        pass
    model(input_ids=batch.tokens_BL).logits.sum().backward()
    assert later == []


def test_a_gradient_that_is_not_finite_names_step_rows_and_module(
    run: Callable[..., Path],
    random_models: dict[str, str],
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, bad_row = Objective.terms, 17

    def terms(
        self: Objective, model: LlamaForCausalLM, batch: Batch, *others: object
    ) -> dict[str, torch.Tensor]:
        values = original(self, model, batch, *others)  # type: ignore[arg-type]
        if bad_row in batch.row_indices:
            values["ce"].register_hook(lambda gradient: gradient * torch.inf)
        return values

    monkeypatch.setattr(Objective, "terms", terms)
    with pytest.raises(
        NonFiniteError, match=r"step \d+: .* output of model\.norm is .*rows .*\b17\b"
    ):
        run(
            *("teacher_sft", tmp_path / "o", f"model.path={random_models['llama']}"),
            *(f"data.path={corpus}", "training.accumulation=2"),
        )


def test_finite_gradients_with_an_infinite_norm(
    run: Callable[..., Path],
    random_models: dict[str, str],
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Update, "sum_gradients", lambda self: torch.tensor(torch.inf))
    with pytest.raises(NonFiniteError, match="step 0: the norm of the gradient is inf"):
        run(
            *("teacher_sft", tmp_path / "o", f"model.path={random_models['llama']}"),
            f"data.path={corpus}",
        )


def test_a_diverging_run_keeps_its_last_checkpoint(
    run: Callable[..., Path],
    random_models: dict[str, str],
    corpus: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, calls = Objective.terms, []

    def terms(self: Objective, *args: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        values = original(self, *args)  # type: ignore[arg-type]
        return {n: v * torch.nan for n, v in values.items()} if len(calls) > 5 else values

    command = (
        *("bitnet_sft", tmp_path / "o", f"model.path={random_models['llama']}"),
        *(f"data.path={corpus}", "training.steps=9", "training.save_every=4"),
    )
    monkeypatch.setattr(Objective, "terms", terms)
    with pytest.raises(NonFiniteError, match="step 5"):
        run(*command)
    assert read_manifest(tmp_path / "o").metrics["steps"] == 4

    monkeypatch.undo()
    assert load_artifact(run(*command)).manifest.metrics["steps"] == 9


def test_objective_errors_name_what_is_allowed(model: LlamaForCausalLM) -> None:
    from wrinklefree.configs.config import GradientConfig
    from wrinklefree.errors import UsageError

    def build(**values: object) -> Objective:
        return build_objective(GradientConfig(stage="stage3_distill", **values), model)  # type: ignore[arg-type]

    assert build(gamma=1.0, split_heads=4).relation_layers == (2,)  # 0.8 of three layers
    assert build(relation_layers=(-1,)).relation_layers == (2,)
    with pytest.raises(UsageError, match="allowed are 1, 2, 4"):
        build(gamma=1.0)
    with pytest.raises(UsageError, match="0 to 2"):
        build(relation_layers=(3,))
    with pytest.raises(UsageError, match="all loss weights are 0"):
        build(ce_weight=0.0)
