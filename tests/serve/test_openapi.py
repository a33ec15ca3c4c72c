"""/openapi.json describes what the server does: no answer to what it allows is a 5xx or new."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from fastapi.routing import APIRoute

from tests.serve.conftest import RunningServer, ScriptedModel, running_server
from wrinklefree import LLM
from wrinklefree.serve.app import build_app
from wrinklefree.serve.native import NativeModel
from wrinklefree.serve.openapi import openapi
from wrinklefree.serve.settings import Settings


def test_every_route_is_described() -> None:
    app = build_app(ScriptedModel([b"ok"]), Settings(model_name="tiny"))
    routes = {
        (method.lower(), route.path.replace(":path", ""))
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    described = {
        (method, path)
        for path, methods in openapi(Settings(model_name="tiny"))["paths"].items()
        for method in methods
    }
    assert described == routes


def test_keys_are_part_of_the_description() -> None:
    document = openapi(Settings(model_name="tiny", api_keys=("k",)))
    paths = document["paths"]
    assert "401" in paths["/v1/models"]["get"]["responses"]
    assert paths["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in paths["/health"]["get"]
    assert "security" not in openapi(Settings(model_name="tiny"))["paths"]["/v1/models"]["get"]


def test_null_is_allowed_where_a_field_may_be_absent() -> None:
    schemas = openapi(Settings(model_name="tiny"))["components"]["schemas"]
    fields = schemas["ChatRequest"]["properties"]
    assert {"type": "null"} in fields["temperature"]["anyOf"]
    assert "anyOf" not in fields["messages"]
    assert schemas["ChatRequest"]["additionalProperties"] is False


@pytest.fixture(scope="module")
def fuzzed(data_dir: Path) -> Iterator[RunningServer]:
    with (
        LLM(data_dir / "stories260k_hf", context=64) as llm,
        running_server(NativeModel(llm), Settings(model_name="tiny")) as server,
    ):
        yield server


def probe(operation: Any, url: str, checks: list[Any]) -> set[int]:
    """Status codes of generated requests, every answer checked."""
    codes: set[int] = set()

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask(case: Any) -> None:
        answer = case.call(base_url=url, timeout=20)
        codes.add(answer.status_code)
        case.validate_response(answer, checks=checks)

    ask()
    return codes


def test_schemathesis_finds_no_5xx_and_no_undescribed_answer(fuzzed: RunningServer) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
    schema = schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")
    found = schemathesis.checks
    checks = [
        found.not_a_server_error,
        *found.CHECKS.get_by_names(
            ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
        ),
    ]
    operations = [result.ok() for result in schema.get_all_operations()]
    seen: dict[str, set[int]] = defaultdict(set)
    for operation in operations:
        seen[operation.path] |= probe(operation, fuzzed.url, checks)
    assert all(seen.values())
    # schemathesis leaves its own source out
    assert set(seen) == set(schema.raw_schema["paths"]) - {"/openapi.json"}
    assert 200 in set().union(*(seen[path] for path in ("/v1/completions", "/tokenize")))
    assert 400 in seen["/v1/chat/completions"]
    assert fuzzed.chat(max_tokens=4).status_code == 200


@pytest.mark.parametrize("field", [{"top_p": 5e-324}, {"min_p": 1 - 2**-53}])
def test_numbers_that_32_bits_round_to_a_bound(
    fuzzed: RunningServer, field: dict[str, float]
) -> None:
    assert fuzzed.complete(max_tokens=4, **field).status_code == 200
