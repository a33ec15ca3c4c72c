"""wf-serve as a process: what it prints, how it refuses, how it ends."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner

from tests.serve.conftest import started_server
from wrinklefree.cli.loading import loading_line
from wrinklefree.cli.serve import main


@pytest.fixture
def model(data_dir: Path) -> Path:
    return data_dir / "stories260k_hf/stories260K-f32.gguf"


def refusal(*arguments: object) -> tuple[int, str]:
    """Exit code and the one line that was written."""
    result = CliRunner().invoke(main, ["--port", "0", *map(str, arguments)])
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.exit_code, result.stderr


def test_a_missing_model(tmp_path: Path) -> None:
    code, line = refusal(tmp_path / "nothing.gguf")
    assert code == 2
    assert "nothing.gguf" in line


@pytest.mark.parametrize("package", ["fastapi", "llguidance", "uvicorn"])
def test_a_missing_extra_is_told_before_the_load(
    model: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what import takes for "not installed"
    monkeypatch.setattr("wrinklefree.cli.serve.load", lambda *_, **__: pytest.fail("loaded"))
    code, line = refusal(model)
    assert code == 2
    assert line == f'error: {package} is missing: pip install "wrinklefree[serve]"\n'


def test_a_damaged_model(tmp_path: Path, model: Path) -> None:
    for size in (0, 4, 1000, model.stat().st_size - 1):
        damaged = tmp_path / "damaged.gguf"
        damaged.write_bytes(model.read_bytes()[:size])
        code, line = refusal(damaged)
        assert code == 1
        assert line.startswith("error: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_need_a_key(model: Path, host: str) -> None:
    code, line = refusal(model, "--host", host)
    assert code == 2
    assert "--api-key-file" in line


def test_a_key_file_without_keys(model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "keys.txt"
    empty.write_text("\n  \n")
    assert refusal(model, "--api-key-file", empty)[0] == 2
    assert refusal(model, "--api-key-file", tmp_path / "none.txt")[0] == 2


def test_a_port_in_use(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, line = refusal(model, "--port", taken.getsockname()[1])
    assert code == 1
    assert "cannot listen" in line


def test_a_misspelled_option(model: Path) -> None:
    code, line = refusal(model, "--treads", 2)
    assert code == 2
    assert "--threads" in line


def test_the_documentation_lists_the_options() -> None:
    text = (Path(__file__).parents[2] / "docs/serve.md").read_text("utf-8")
    table = text.partition("## Options\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `--")]
    names = {name for cell, _ in rows for name in re.findall(r"--[a-z-]+", cell)}
    options = {
        max(parameter.opts, key=len): parameter
        for parameter in main.get_params(click.Context(main))
        if isinstance(parameter, click.Option)
    }
    assert names == set(options)
    for cell, default in rows:
        shown = re.fullmatch(r" `(.*)` ", default)
        for name in re.findall(r"--[a-z-]+", cell):
            assert (shown and shown[1]) == (
                str(options[name].default) if options[name].show_default else None
            ), name


def test_it_greets_serves_and_drains(model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("one\ntwo\n")
    with started_server(model, "--api-key-file", keys, "--threads", 1) as (process, url, lines):
        assert lines[0].startswith("stories260K-f32: gguf F32, 32.00 bits per weight, ")
        assert ", 1 threads, context 512" in lines[0]
        headers = {"Authorization": "Bearer two"}
        body = {"prompt": "One day", "max_tokens": 400, "stream": True, "n": 4}
        assert httpx.get(f"{url}/v1/models").status_code == 401
        with httpx.stream(
            "POST", f"{url}/v1/completions", json=body, headers=headers, timeout=60
        ) as answer:
            events = answer.iter_lines()
            next(events)
            process.send_signal(signal.SIGTERM)
            assert list(events)[-2:] == ["data: [DONE]", ""], "the stream came to its end"
        assert process.wait(timeout=20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


def test_a_long_load_is_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal, expected in ((False, ""), (True, f"\rloading  50%\r{' ' * 13}\r")):
        clock = iter((0.0, 0.9, 1.1, 1.2))
        monkeypatch.setattr("time.perf_counter", clock.__next__)
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        show = loading_line()
        for done in (20, 50, 100):
            show(done, 100)
        assert capsys.readouterr().err == expected


def test_serving_imports_no_torch() -> None:
    code = (
        "import sys, wrinklefree.cli.serve, wrinklefree.serve.app, wrinklefree.serve.native\n"
        "heavy = {'torch', 'transformers', 'datasets', 'hydra', 'accelerate'}\n"
        "print(heavy & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


def test_the_sampling_of_the_model_is_told(model: Path, tmp_path: Path) -> None:
    wise = Path(shutil.copytree(model.parent, tmp_path / "wise"))
    (wise / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "top_p": 3}')
    with (tmp_path / "log").open("w+") as log:
        with started_server(wise, log=log) as (_, url, lines):
            assert lines[1] == "the model's own sampling: temperature 0.6, top_k 20\n"
            (entry,) = httpx.get(f"{url}/v1/models").json()["data"]
            assert entry["default_sampling"] == {"temperature": 0.6, "top_k": 20}
        log.seek(0)
        assert "top_p 3 is not used; allowed are above 0 to 1" in log.read()
