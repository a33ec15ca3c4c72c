"""The same bits whatever the number of threads, the batch and the cut of the prompt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.engine.conftest import all_logits
from wrinklefree import _engine

TOKENS = [1, *range(3, 170)]  # longer than one internal chunk (128) and five pages of the cache


@pytest.fixture(params=["ternary", "all_norms", "float"])
def model_path(
    request: pytest.FixtureRequest, ternary_gguf: Path, all_norms_dir: Path, stories_dir: Path
) -> str:
    paths = {"ternary": ternary_gguf, "all_norms": all_norms_dir, "float": stories_dir}
    return str(paths[request.param])


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_threads_do_not_change_bits(model_path: str, threads: int) -> None:
    expected = all_logits(_engine.Model(model_path, threads=1), TOKENS[:40])
    model = _engine.Model(model_path, threads=threads)
    assert model.info["threads"] == threads
    np.testing.assert_array_equal(all_logits(model, TOKENS[:40]), expected)
    # Of one row every thread makes its own copy of what the products read.
    np.testing.assert_array_equal(all_logits(model, TOKENS[:1]), expected[:1])


@pytest.mark.parametrize("rows", [1, 4, 40])
def test_the_layout_does_not_change_bits(ternary_gguf: Path, rows: int) -> None:
    t1 = _engine.Model(str(ternary_gguf), layout="t1")
    t2 = _engine.Model(str(ternary_gguf), layout="t2")
    assert (t1.info["layout"], t2.info["layout"]) == ("t1", "t2")
    assert t1.info["weight_bytes"] < t2.info["weight_bytes"]
    np.testing.assert_array_equal(all_logits(t1, TOKENS[:rows]), all_logits(t2, TOKENS[:rows]))
    with pytest.raises(_engine.ModelError, match="layout must be auto, t2 or t1, not 'lut'"):
        _engine.Model(str(ternary_gguf), layout="lut")


@pytest.mark.parametrize("chunk", [1, 2, 7, 31, 32, 33, 128, 150])
def test_chunking_of_the_prompt_does_not_change_bits(model_path: str, chunk: int) -> None:
    model = _engine.Model(model_path)
    sequence = model.sequence(len(TOKENS))
    parts = [
        model.step([_engine.StepItem(sequence, TOKENS[i : i + chunk], None, "all")])[0].logits
        for i in range(0, len(TOKENS), chunk)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), all_logits(model, TOKENS))


def test_other_sequences_in_the_batch_do_not_change_bits(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf))
    prompts = [TOKENS[:5], TOKENS[10:11], TOKENS[20:90], TOKENS[3:8]]
    alone = [all_logits(model, prompt) for prompt in prompts]
    items = [_engine.StepItem(model.sequence(99), prompt, None, "all") for prompt in prompts]
    for output, expected in zip(model.step(items), alone, strict=True):
        np.testing.assert_array_equal(output.logits, expected)
    # And the caches they left: one decode step of all against one of each.
    together = model.step([_engine.StepItem(item.sequence, [7], None, "last") for item in items])
    for output, prompt in zip(together, prompts, strict=True):
        np.testing.assert_array_equal(output.logits, all_logits(model, [*prompt, 7])[-1])


def test_truncated_sequences_continue_as_if_new(ternary_gguf: Path) -> None:
    model = _engine.Model(str(ternary_gguf))
    sequence = model.sequence(200)
    model.step([_engine.StepItem(sequence, TOKENS[:70])])
    sequence.truncate(33)
    (output,) = model.step([_engine.StepItem(sequence, TOKENS[33:50], None, "all")])
    np.testing.assert_array_equal(output.logits, all_logits(model, TOKENS[:50])[33:])


def run_with_isa(isa: str, path: Path) -> dict[str, object]:
    code = (
        "import json, sys\n"
        "from wrinklefree import _engine\n"
        "m = _engine.Model(sys.argv[1])\n"
        "item = _engine.StepItem(m.sequence(24), list(range(3, 27)), None, 'last')\n"
        "out = m.step([item])[0].logits\n"
        "print(json.dumps({'isa': m.info['isa'], 'logits': out.tolist()}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "WF_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    values: dict[str, object] = json.loads(result.stdout)
    return values


@pytest.mark.parametrize("isa", _engine.build_info()["isas"])
def test_every_instruction_set_runs_and_agrees(stories_dir: Path, isa: str) -> None:
    ours = run_with_isa(isa, stories_dir)
    scalar = run_with_isa("scalar", stories_dir)
    assert ours["isa"] == isa
    np.testing.assert_allclose(ours["logits"], scalar["logits"], atol=2e-4)


def test_unknown_instruction_set_is_an_error_that_lists_the_others(stories_dir: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        run_with_isa("pentium", stories_dir)
    assert "WF_ISA=pentium is not available here; available:" in failure.value.stderr
