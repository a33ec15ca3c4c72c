"""Errors of the HTTP API, in OpenAI's shape. Messages never repeat prompts, paths or keys."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class ApiError(Exception):
    """A refused or failed request: HTTP status and the error object of the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        kind = "server_error" if status >= 500 else "invalid_request_error"
        if status == 429:
            kind = "rate_limit_error"
        self.body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))

    def response(self) -> Response:
        return Response(
            self.body.model_dump_json(),
            status_code=self.status,
            headers=self.headers,
            media_type="application/json",
        )


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is wrong, sending it again does not help."""
    return ApiError(400, message, param=param, code=code)


def overloaded(retry_after_s: int) -> ApiError:
    """429: every slot and every place in the queue is taken."""
    return ApiError(
        429,
        f"the server is busy; try again in {retry_after_s} s",
        code="server_overloaded",
        headers={"Retry-After": str(retry_after_s)},
    )


def shutting_down() -> ApiError:
    """503: the server is not accepting work (any more)."""
    return ApiError(
        503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"}
    )


def generation_failed() -> ApiError:
    """500: the engine raised; the reason is in the server's log, not in the answer."""
    return ApiError(500, "the model failed on this request", code="generation_failed")
