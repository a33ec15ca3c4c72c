"""wf-convert beside other programs: what it takes, and what is left when it is stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.convert.tiny_models import LLAMA_CONFIG, save_tiny_artifact
from wrinklefree.convert.gguf_names import expected_hf_names
from wrinklefree.convert.safetensors_writer import write_safetensors
from wrinklefree.models import Manifest, QuantConfig

HIDDEN, INTERMEDIATE, LAYERS, KV_WIDTH, VOCAB = 2048, 8192, 4, 512, 512
LARGEST = 4 * HIDDEN * INTERMEDIATE  # bytes

RUN = "from wrinklefree.cli.convert import main; main()"
# The largest resident size of this program alone; ru_maxrss would count its parent's as well.
RUN_AND_MEASURE = f"""
try:
    {RUN}
finally:
    from pathlib import Path
    status = Path("/proc/self/status").read_text()
    print(next(line for line in status.splitlines() if line.startswith("VmHWM")))
"""
# As a disk would that is busy elsewhere: an eternity per tensor.
RUN_SLOWLY = f"""
import time
from wrinklefree.convert import to_gguf
encode = to_gguf.tensor_bytes
def slow(*arguments):
    time.sleep(0.5)
    return encode(*arguments)
to_gguf.tensor_bytes = slow
{RUN}
"""
# The kernel refuses to write beyond 100,000 bytes, as it does on a full disk.
RUN_IN_A_SMALL_DISK = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
{RUN}
"""


def save_large_artifact(path: Path, tokenizer: Path) -> Path:
    """An artifact of 1 GB, written tensor by tensor."""
    path.mkdir()
    config = LLAMA_CONFIG | {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": VOCAB,
        "quantization_config": QuantConfig(subln="none").to_json(),
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "wrinklefree.json").write_text(json.dumps(Manifest(stage="test").to_json()))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, path / name)
    square = (HIDDEN, HIDDEN)
    matrices = {
        "q_proj": square,
        "k_proj": (KV_WIDTH, HIDDEN),
        "v_proj": (KV_WIDTH, HIDDEN),
        "o_proj": square,
        "gate_proj": (INTERMEDIATE, HIDDEN),
        "up_proj": (INTERMEDIATE, HIDDEN),
        "down_proj": (HIDDEN, INTERMEDIATE),
        "embed_tokens": (VOCAB, HIDDEN),
    }
    shapes = {
        name: matrices.get(name.split(".")[-2], (HIDDEN,))
        for name in sorted(expected_hf_names(config, "none"))
    }
    noise = np.random.default_rng(0).normal(0, 0.03, 1 << 20).astype(np.float32)
    tensors = (
        np.resize(noise, shape) if len(shape) == 2 else np.ones(shape, np.float32)
        for shape in shapes.values()
    )
    write_safetensors(path / "model.safetensors", shapes, tensors)
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("level", ["tensors", "logits"])
def test_memory_is_that_of_the_largest_tensor(data_dir: Path, tmp_path: Path, level: str) -> None:
    """At most 2x the largest tensor + 500 MB (Python and torch), for 1 GB of masters."""
    artifact = save_large_artifact(tmp_path / "large", data_dir / "stories260k_hf")
    assert (artifact / "model.safetensors").stat().st_size > 950e6
    arguments = [str(artifact), str(tmp_path / "x.gguf"), "--verify", level, "--json"]
    command = [sys.executable, "-c", RUN_AND_MEASURE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    peak = 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0])
    assert 100e6 < peak < 2 * LARGEST + 500e6
    assert (tmp_path / "x.gguf").stat().st_size < 70e6


@pytest.fixture(scope="module")
def artifact(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resources") / "artifact"
    return save_tiny_artifact(path, data_dir / "stories260k_hf")


def test_ctrl_c_leaves_nothing(artifact: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_SLOWLY, str(artifact), str(target)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 300
        while not any(tmp_path.iterdir()) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_a_full_disk_leaves_nothing(
    artifact: Path, data_dir: Path, tmp_path: Path, to: str
) -> None:
    file = data_dir / "stories260k_hf" / "stories260K-f32.gguf"
    source, target = (artifact, "x.gguf") if to == "gguf" else (file, "directory")
    command = [sys.executable, "-c", RUN_IN_A_SMALL_DISK, str(source), str(tmp_path / target)]
    done = subprocess.run(
        [*command, "--to", to], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / target} is not written: ")
    assert "File too large" in last or "is the disk full?" in last
    assert list(tmp_path.iterdir()) == []
