"""Keys and values: what fits in memory, who waits for it, and who is told that it never will."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.serve.conftest import started_server
from wrinklefree.cli.serve import main
from wrinklefree.errors import WrinklefreeError
from wrinklefree.serve.free_memory import free_bytes
from wrinklefree.serve.kv_memory import fitting
from wrinklefree.serve.settings import Settings

PROMPT = [65] * 16


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 900 kB\nMemFree: 20 kB\nMemAvailable:     500 kB\n"}


def test_free_memory_of_a_machine(tmp_path: Path) -> None:
    assert free_bytes(write(tmp_path, MACHINE)) == 500 << 10
    assert free_bytes(tmp_path / "nothing") is None


def test_free_memory_of_the_groups_above_counts_too(tmp_path: Path) -> None:
    groups = "sys/fs/cgroup"
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        f"{groups}/a/b/memory.max": "max\n",
        f"{groups}/a/b/memory.current": "300000\n",
        f"{groups}/a/memory.max": "400000\n",
        f"{groups}/a/memory.current": "350000\n",
        f"{groups}/a/memory.stat": "anon 5\ninactive_file 20000\nactive_file 10000\nslab 9\n",
    }
    assert free_bytes(write(tmp_path, MACHINE | files)) == 400_000 - 350_000 + 30_000


def test_free_memory_of_a_container(tmp_path: Path) -> None:
    """Its group's name is that of the host, its files are at the top."""
    folder = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "9:name=systemd:/x\n4:memory:/docker/x\n1:cpu,cpuacct:/x\n0::/x\n",
        f"{folder}/memory.limit_in_bytes": "300000\n",
        f"{folder}/memory.usage_in_bytes": "200000\n",
        f"{folder}/memory.stat": "inactive_file 9\ntotal_inactive_file 50000\n",
    }
    assert free_bytes(write(tmp_path, MACHINE | files)) == 150_000
    write(tmp_path, {f"{folder}/memory.usage_in_bytes": "900000"})
    assert free_bytes(tmp_path) == 0


def fitted(free: int | None, **options: Any) -> tuple[Settings, list[str]]:
    chosen = Settings(model_name="m", parallel=4, prefix_cache_bytes=1 << 20)
    return fitting(chosen, context=4096, bytes_per_token=1024, free_bytes=free, **options)


def test_what_fits_changes_nothing() -> None:
    settings, notes = fitted(1 << 30)
    assert notes == []
    assert (settings.parallel, settings.prefix_cache_bytes) == (4, 1 << 20)
    assert settings.kv_share >= 4096
    settings, notes = fitted(None)  # nobody knows
    assert notes == []
    assert settings.kv_share >= 4096


def test_less_memory_makes_shorter_answers() -> None:
    settings, notes = fitted(10 << 20)
    assert settings.kv_tokens == 7168  # 80 % of 10 MiB but 1 MiB
    assert (settings.parallel, settings.kv_share) == (4, 1792)
    assert notes == [
        "7 MiB for keys and values hold 7168 tokens: 4 answers of 1792 tokens at a time, or fewer "
        "longer ones"
    ]
    assert settings.default_max_tokens(100) == 1692
    assert settings.default_max_tokens(1700) == 448  # a quarter of the share
    assert settings.default_max_tokens(7000) == 168
    assert settings.default_max_tokens(9000) == 1


def test_little_memory_lowers_the_number_of_answers_and_the_prefix_cache() -> None:
    settings, notes = fitted(2 << 20)
    assert settings.prefix_cache_bytes == int(0.8 * (2 << 20)) // 4
    assert (settings.parallel, settings.kv_tokens) == (2, 1216)
    assert notes[0] == "little memory is free: 0 MiB of prefix cache"
    assert "2 answers, not 4, of 608 tokens" in notes[1]
    settings, notes = fitted(1 << 40, wanted_bytes=600 << 10)  # what the operator says holds
    assert (settings.parallel, settings.kv_tokens) == (1, 576)
    (note,) = notes
    assert "1 answer, not 4, of 576 tokens" in note


def test_no_room_for_one_answer_is_an_error() -> None:
    with pytest.raises(WrinklefreeError, match="hold 288 tokens, an answer needs 512"):
        fitted(1 << 40, wanted_bytes=300 << 10)


def test_answers_that_do_not_fit_together_wait(serve: Any, scripted: Any) -> None:
    model = scripted([b"x"], endless=True, delay_s=0.005)
    server = serve(model, parallel=4, kv_tokens=128)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.complete, prompt=PROMPT, max_tokens=40 + i) for i in range(4)]
        while server.worker.num_running < 2:
            time.sleep(0.001)
        assert [future.result().status_code for future in running] == [200] * 4
    assert max(model.batch_sizes) == 2  # 64 tokens each
    server.wait_idle()


def test_a_long_answer_is_not_overtaken_for_ever(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"x"], endless=True, delay_s=0.002), parallel=4, kv_tokens=128)
    with ThreadPoolExecutor(8) as pool:
        short = [pool.submit(server.complete, prompt=PROMPT, max_tokens=16) for _ in range(4)]
        long = pool.submit(server.complete, prompt=PROMPT, max_tokens=112)
        short += [pool.submit(server.complete, prompt=PROMPT, max_tokens=16) for _ in range(16)]
        assert {future.result().status_code for future in [*short, long]} == {200}
    assert long.result().json()["usage"]["completion_tokens"] == 112


def test_what_never_fits_is_refused(serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"ok"]), parallel=2, kv_tokens=128)
    for fields in ({"max_tokens": 113}, {"prompt": PROMPT * 8}):
        answer = server.complete(**{"prompt": PROMPT, **fields})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("memory_exceeded", "max_tokens")
        assert "the memory of this server holds 128" in error["message"]
    assert server.complete(prompt=PROMPT, max_tokens=112).status_code == 200


def test_an_answer_without_a_limit_gets_its_share(serve: Any, scripted: Any) -> None:
    model = scripted([b"x"], endless=True)
    server = serve(model, parallel=2, kv_tokens=128)
    answer = server.complete(prompt=PROMPT).json()
    assert answer["usage"]["completion_tokens"] == 48
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_command_says_what_fits(data_dir: Path, tmp_path: Path) -> None:
    model = shutil.copy(data_dir / "stories260k_hf/stories260K-f32.gguf", tmp_path / "m.gguf")
    with started_server(model, "--kv-memory", 1, "--model-name", "org/stories") as (_, _, lines):
        assert lines[0].startswith("1 MiB for keys and values hold ")
        assert "1 answer, not 4, of " in lines[0]
        assert lines[1].startswith("org/stories: gguf F32")
    result = CliRunner().invoke(main, [str(model), "--model-name", " "])
    assert result.exit_code == 2
    assert "--model-name" in result.stderr
