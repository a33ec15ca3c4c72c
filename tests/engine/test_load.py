"""Loading: what it tells, how it ends early, how much memory it takes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.engine.conftest import all_logits
from tests.engine.sparse_models import write_sparse_artifact, write_sparse_gguf
from wrinklefree import LLM, _engine
from wrinklefree.errors import FormatError

FILES = [
    "ternary_gguf_fixture/rand256-tq1_0.gguf",
    "ternary_gguf_fixture/rand256-tq2_0.gguf",
    "ternary_gguf_fixture/rand256-f16.gguf",
    "i2s_fixture/bitnet-b158-i2_s.gguf",
    "stories260k_hf",
]
WRITERS = {"gguf": write_sparse_gguf, "artifact": write_sparse_artifact}


@pytest.mark.parametrize("name", FILES)
def test_threads_do_not_change_weights(data_dir: Path, name: str) -> None:
    one, *others = (_engine.Model(str(data_dir / name), threads=n) for n in (1, 2, 5))
    for other in others:
        assert other.info["notes"] == one.info["notes"]
        np.testing.assert_array_equal(all_logits(other, range(9)), all_logits(one, range(9)))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", WRITERS)
def test_progress_grows_to_the_size_of_all_tensors(tmp_path: Path, kind: str, threads: int) -> None:
    path = WRITERS[kind](tmp_path / "m", layers=3, hidden=512, ffn=2048, vocab=100)
    told: list[tuple[int, int]] = []
    _engine.Model(str(path), threads=threads, progress=lambda *progress: told.append(progress))
    done, total = zip(*told, strict=True)
    matrices = 3 * (4 * 512 * 512 + 3 * 512 * 2048)
    norms = 4 * 512 * 7
    expected = {
        "gguf": matrices // 256 * 66 + 2 * 100 * 512 + norms,
        "artifact": 4 * matrices + 4 * 100 * 512 + norms,
    }
    assert set(total) == {expected[kind]}
    assert list(done) == sorted(done)
    assert (done[0], done[-1]) == (0, expected[kind])


def test_what_progress_raises_ends_the_load(ternary_gguf: Path) -> None:
    def refuse(done: int, total: int) -> None:
        raise LookupError(f"{done} of {total}")

    with pytest.raises(LookupError, match=r"^0 of "):
        LLM(ternary_gguf, progress=refuse)
    LLM(ternary_gguf)


class Alarm(Exception):
    """What the signal handler of a test raises."""


def test_a_signal_ends_the_load(tmp_path: Path) -> None:
    """As Ctrl-C does; half a gigabyte is not read in the time between two looks at signals."""
    path = write_sparse_gguf(tmp_path / "m", layers=1, hidden=2048, ffn=256, vocab=1 << 17)

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Alarm):
            _engine.Model(str(path), threads=1)
    finally:
        signal.signal(signal.SIGALRM, before)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    path.write_bytes(b"another file")


@pytest.mark.parametrize(
    ("change", "problem"),
    [(truncate, "became shorter"), (replace, "became shorter"), (overwrite, "was changed")],
)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, kind: str, change: Callable[[Path], None], problem: str
) -> None:
    path = WRITERS[kind](tmp_path / "m", layers=2, hidden=256, ffn=512, vocab=100)
    file = path / "model.safetensors" if path.is_dir() else path
    os.utime(file, (0, 0))  # a clock tick may be longer than this test

    def listen(done: int, total: int) -> None:
        if done == 0:
            change(file)

    with pytest.raises(FormatError, match=f"{file.name}.*: the file {problem} while"):
        LLM(path, threads=2, progress=listen)


MEASURE = """
import json, sys
from wrinklefree import _engine

def memory():
    lines = (line.split() for line in open("/proc/self/status"))
    values = {line[0]: int(line[1]) << 10 for line in lines if line[0] in ("VmRSS:", "VmHWM:")}
    return values["VmRSS:"], values["VmHWM:"]

before, _ = memory()
model = _engine.Model(sys.argv[1], threads=2)
after, peak = memory()
print(json.dumps({
    "kept": after - before,
    "peak": peak - before,
    "weights": model.info["weight_bytes"],
    "is_mapped": sys.argv[1] in open("/proc/self/maps").read(),
}))
"""


@pytest.mark.parametrize("kind", WRITERS)
def test_loading_takes_little_more_memory_than_the_model(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / "m", layers=6, hidden=1024, ffn=4096, vocab=8192)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    measured = json.loads(result.stdout)
    assert measured["kept"] >= measured["weights"] > 40e6
    assert measured["peak"] <= 1.2 * measured["kept"]
    assert not measured["is_mapped"]
