"""One question to the student over HTTP."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx

from wrinklefree.errors import WrinklefreeError


def ask(model: Path, prompt: str, *, tokens: int) -> str:
    """Start wf-serve on a free port, ask for the likeliest next tokens, and stop it again."""
    command = [str(Path(sys.executable).with_name("wf-serve")), str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = (re.search(r"OpenAI API (http\S+)", line) for line in server.stdout)
            address = next((match[1] for match in found if match), None)
            if address is None:
                raise WrinklefreeError("wf-serve stopped before it listened")
            request = {"model": model.stem, "prompt": prompt, "max_tokens": tokens}
            request["temperature"] = 0
            answer = httpx.post(f"{address}/completions", json=request, timeout=120)
            if answer.is_error:
                raise WrinklefreeError(f"wf-serve answered {answer.status_code}: {answer.text}")
            return str(answer.json()["choices"][0]["text"])
        finally:
            server.terminate()
