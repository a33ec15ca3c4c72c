"""The parts of the benches that a wrong figure could come from."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import overhead
import rounds
from body import Body
from ceilings import Ceilings
from problems import SMOLLM2
from products import LAYOUTS, in_huge_pages
from runners import Run, Task, llama_bench_runner, ratios
from wrinklefree import _engine


def test_a_share_is_of_the_higher_ceiling_beside_it() -> None:
    measured = rounds.Rounds(
        seconds={"kernel": [1.0, 2.0, 1.0]}, ceilings={"read": [10.0, 20.0, 10.0, 5.0]}
    )
    # 8 of 20, 4 of 20, 8 of 10.
    assert measured.share("kernel", 8, "read") == pytest.approx(0.4)
    assert measured.share_of_best("kernel", 10, "read") == pytest.approx(0.5)


def test_runs_take_turns_with_their_ceilings() -> None:
    order: list[str] = []

    def ceiling() -> float:
        order.append("c")
        return 1.0

    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    measured = rounds.measure(runs, 2, {"limit": ceiling})
    assert "".join(order) == "ab" + "c" + "abc" * 2
    assert [len(times) for times in measured.seconds.values()] == [2, 2]


def test_a_slow_run_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "SLOW_S", 0.01)
    measured = rounds.measure({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, 3)
    assert len(measured.seconds["slow"]) == 1
    assert len(measured.seconds["fast"]) == 3


def test_impossible_shares_are_named() -> None:
    assert rounds.impossible({"fine": 1.01, "wrong": 1.03}) == {"wrong": 1.03}


def test_ceilings_are_positive_and_shared_by_threads() -> None:
    ceilings = Ceilings(_engine.cpu_info()["isa"], [1, 2], mib=16, repeats=1)
    for threads in (1, 2):
        assert ceilings.read_gbps(threads) > 0
        assert ceilings.copy_gbps(threads) > 0
        assert (ceilings.multiply_gmacs(threads) > 0) == bool(ceilings.multiply_peak)
    assert Ceilings("scalar", [1], mib=1, repeats=1).multiply_gmacs(1) == 0


def test_a_body_has_every_weight_of_every_layer() -> None:
    body = Body(SMOLLM2, LAYOUTS)
    weights = SMOLLM2.layers * SMOLLM2.layer_weights
    assert body.weight_bytes("t2") == weights // 4
    assert body.weight_bytes("lut") == weights // 4
    # 576 and 1536 are no multiples of 20: the last block of a row is padded.
    assert weights / 5 < body.weight_bytes("t1") < weights / 5 * 1.01
    body.run("t1", rows=1, layers=1)


FORK = """#!/bin/sh
echo 'this fork greets'
echo '[
  {"n_prompt": 7, "n_gen": 0, "avg_ts": 11.5},
  {"n_prompt": 0, "n_gen": 3, "avg_ts": 5.5, "samples_ts": [ 5.5 ]}
]'
"""


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (FORK, None),
        ("#!/bin/sh\necho 'unknown type' >&2; exit 3\n", "exited with 3: unknown type"),
        ("#!/bin/sh\necho usage\n", "no JSON list: 'usage"),
    ],
    ids=["speaks", "fails", "mumbles"],
)
def test_llama_bench_output(tmp_path: Path, script: str, problem: str | None) -> None:
    program = tmp_path / "llama-bench"
    program.write_text(script)
    program.chmod(0o755)
    run = llama_bench_runner(program, Task(Path("model.gguf"), 1, [1] * 7, 3))
    if problem is None:
        assert run() == Run(11.5, 5.5, None)
    else:
        with pytest.raises(RuntimeError, match=problem):
            run()


def test_ratios_are_paired() -> None:
    ours, theirs = [Run(2, 4, 0), Run(20, 40, 0)], [Run(1, 1, 0), Run(10, 10, 0)]
    assert ratios(ours, theirs) == {"engine_prefill_ratio": 2.0, "engine_decode_ratio": 4.0}


def test_huge_page_copies_are_equal_and_apart() -> None:
    w = torch.arange(100, dtype=torch.int16)
    first, second = in_huge_pages([w, w])
    assert torch.equal(first, w)
    assert torch.equal(second, w)
    assert (second.data_ptr() - first.data_ptr()) % 64 == 0


def test_the_overhead_of_a_call_is_its_own_time() -> None:
    slept = overhead.median_us(lambda: time.sleep(0.001), calls=3, batches=3)
    assert 1000 <= slept < 20000
    before = torch.get_num_threads()
    assert set(overhead.call_overheads_us(calls=2)) >= {"ternary_linear", "quantize_act_int8"}
    assert torch.get_num_threads() == before
