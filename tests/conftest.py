"""Fixtures shared by all tests: where the real data lies, and one seed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest


def find_data_dir() -> Path | None:
    """Directory of the real test data: $WF_TEST_DATA, or ../shared/data beside the checkout."""
    given = os.environ.get("WF_TEST_DATA")
    path = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    path = find_data_dir()
    if path is None:
        pytest.skip("no test data: set WF_TEST_DATA or put it at ../shared/data")
    return path


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
