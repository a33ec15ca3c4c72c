"""The op tests run with whatever WF_ISA says; they fail if another table answered."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _isa_is_the_forced_one() -> None:
    from wrinklefree import _engine

    forced = os.environ.get("WF_ISA")
    if forced is not None:
        assert _engine.cpu_info()["isa"] == forced
