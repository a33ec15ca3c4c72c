"""The OpenAPI description of the routes, made of the models that requests are parsed with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from wrinklefree._version import __version__
from wrinklefree.serve import protocol, responses
from wrinklefree.serve.errors import ErrorBody
from wrinklefree.serve.guard import OPEN_PATHS
from wrinklefree.serve.settings import Settings

ERRORS = {
    400: "A field is wrong, unknown or not supported; `param` names it.",
    401: "The API key is missing or wrong.",
    403: "The Host header is not a name of this machine.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "All places and the queue are taken.",
    500: "The model failed on this request.",
    503: "The server is shutting down.",
}
BODY_ERRORS = (400, 404, 408, 413, 415)
GENERATION_ERRORS = (*BODY_ERRORS, 429, 500, 503)
REQUEST_ID = {
    "description": "Names the request in the server's log: the client's own header of this name, "
    "if it is 1 to 64 printable characters, else a new one.",
    "schema": {"type": "string"},
}
RETRY_AFTER = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
DESCRIPTION = "OpenAI's API for one model. A field set to null is absent, other fields are refused."


@dataclass(frozen=True, slots=True)
class Operation:
    """One route; `answer` is the model of a JSON answer, or the media type of another one."""

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | str
    request: type[BaseModel] | None = None
    chunk: type[BaseModel] | None = None
    """Of each `data:` line if the request asks for a stream; the last line is `data: [DONE]`."""
    errors: tuple[int, ...] = ()


OPERATIONS = (
    Operation("get", "/", "The chat page", "text/html"),
    Operation("head", "/", "Its headers", "text/html"),
    Operation("get", "/health", "Is the model able to answer?", responses.Health, errors=(503,)),
    Operation("head", "/health", "Its headers", responses.Health, errors=(503,)),
    Operation("get", "/ready", "The same", responses.Health, errors=(503,)),
    Operation("head", "/ready", "Its headers", responses.Health, errors=(503,)),
    Operation("get", "/metrics", "Numbers for Prometheus", "text/plain"),
    Operation("get", "/openapi.json", "This description", "application/json"),
    Operation("get", "/v1/models", "The model of this server, as a list", responses.ModelList),
    Operation("get", "/v1/models/{name}", "The model", responses.Model, errors=(404,)),
    Operation(
        "post",
        "/v1/chat/completions",
        "Continues a conversation",
        responses.ChatCompletion,
        request=protocol.ChatRequest,
        chunk=responses.ChatChunk,
        errors=GENERATION_ERRORS,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continues texts",
        responses.TextCompletion,
        request=protocol.CompletionRequest,
        chunk=responses.TextCompletion,
        errors=GENERATION_ERRORS,
    ),
    Operation(
        "post",
        "/tokenize",
        "Token ids of a text",
        responses.Tokenized,
        request=protocol.TokenizeRequest,
        errors=BODY_ERRORS,
    ),
    Operation(
        "post",
        "/detokenize",
        "The text of token ids",
        responses.Detokenized,
        request=protocol.DetokenizeRequest,
        errors=BODY_ERRORS,
    ),
)


def openapi(settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these settings."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation, settings)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "wf-serve", "version": __version__, "description": DESCRIPTION},
        "paths": paths,
        "components": {"schemas": _schemas(OPERATIONS)},
    }
    if settings.api_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _described(operation: Operation, settings: Settings) -> dict[str, Any]:
    is_guarded = bool(settings.api_keys) and operation.path not in OPEN_PATHS
    errors = {*operation.errors}
    if is_guarded:
        errors.add(401)
    if settings.is_local:
        errors.add(403)
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": _success(operation),
            **{str(status): _failure(operation, status) for status in sorted(errors)},
        },
    }
    if is_guarded:
        described["security"] = [{"key": []}]
    if "{name}" in operation.path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        described["parameters"] = [name]
    if operation.request is not None:
        described["requestBody"] = {"required": True, "content": _json(operation.request)}
    return described


def _success(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        kind = "object" if operation.answer == "application/json" else "string"
        content: dict[str, Any] = {operation.answer: {"schema": {"type": kind}}}
    else:
        content = _json(operation.answer)
    text = operation.summary
    if operation.chunk is not None:
        text += f"; a stream is server-sent events, each a {operation.chunk.__name__}, then [DONE]"
        content["text/event-stream"] = {}
    return {"description": text, "headers": {"X-Request-Id": REQUEST_ID}, "content": content}


def _failure(operation: Operation, status: int) -> dict[str, Any]:
    is_health = operation.answer is responses.Health and status == 503
    headers = {"X-Request-Id": REQUEST_ID}
    if status in (429, 503) and not is_health:
        headers["Retry-After"] = RETRY_AFTER
    return {
        "description": "No token was generated yet, or it is shutting down."
        if is_health
        else ERRORS[status],
        "headers": headers,
        "content": _json(responses.Health if is_health else ErrorBody),
    }


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """JSON schemas of all models by name.

    Those of answers are in "validation" mode too: there a field with a default may be left out.
    """
    kinds = {ErrorBody} | {
        model
        for operation in operations
        for model in (operation.request, operation.answer, operation.chunk)
        if isinstance(model, type)
    }
    _, document = models_json_schema(
        [(kind, "validation") for kind in sorted(kinds, key=lambda kind: kind.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = document["$defs"]
    return schemas
