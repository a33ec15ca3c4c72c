"""The official Node client against a real server on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCENARIOS = Path(__file__).with_name("openai_client.mjs")
WORDS = ["Hel", "lo ", "wörld", ", ", "again"]
TEXT = "".join(WORDS)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, serve_for_module: Any) -> dict[str, Any]:
    """What the scenarios saw."""
    from tests.serve.conftest import ScriptedModel

    folder = tmp_path_factory.mktemp("node")
    if shutil.which("npm") is None:
        pytest.skip("no npm: Debian packages nodejs and npm")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai@6"]
    installed = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120)
    if installed.returncode:
        pytest.skip(f"npm cannot install the client: {installed.stderr[-200:]}")
    shutil.copy(SCENARIOS, folder)
    script = [word.encode() for word in WORDS]
    server = serve_for_module(ScriptedModel(script), parallel=8)
    talker = ScriptedModel([b"x"], endless=True, context_length=20_000, delay_s=0.005)
    endless = serve_for_module(talker, parallel=8)
    locked = serve_for_module(ScriptedModel(script), api_keys=("sesame",))
    ran = subprocess.run(
        ["node", SCENARIOS.name, server.url, locked.url, endless.url],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, f"exit code {ran.returncode}: {ran.stderr}"
    endless.wait_idle()  # long before its answers' ends
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_answers(seen: dict[str, Any]) -> None:
    assert seen["whole"]["message"]["content"] == TEXT
    assert seen["whole"]["finish_reason"] == "stop"
    assert seen["usage"]["total_tokens"] == 15
    assert seen["requestId"].startswith("req_")
    assert seen["texts"] == [[i, TEXT] for i in range(4)]
    assert (seen["models"], seen["one"]) == (["tiny"], "none")


def test_streams(seen: dict[str, Any]) -> None:
    assert seen["streamed"]["text"] == seen["helper"] == TEXT
    assert seen["streamed"]["reasons"] == [None] * 6 + ["stop", None]
    assert seen["streamed"]["usage"]["completion_tokens"] == 6
    assert seen["aborted"]["isAbort"]
    assert seen["aborted"]["count"] >= 10  # what was on its way still comes


def test_errors_are_the_clients_classes(seen: dict[str, Any]) -> None:
    assert seen["wrongField"] == {"isKind": True, "status": 400, "param": "n", "code": None}
    assert seen["wrongModel"]["isKind"]
    assert seen["wrongKey"]["isKind"]
    assert seen["wrongKey"]["code"] == "invalid_api_key"
    assert seen["rightKey"] == 1
