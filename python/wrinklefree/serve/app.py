"""The HTTP application: routes that parse, refuse, and hand over to the engine thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from wrinklefree.serve.answer import EventStream, whole_answer
from wrinklefree.serve.errors import ApiError
from wrinklefree.serve.grammar import Grammars
from wrinklefree.serve.guard import Guard
from wrinklefree.serve.job import Job
from wrinklefree.serve.model import ServedModel
from wrinklefree.serve.openapi import openapi
from wrinklefree.serve.page import chat_page
from wrinklefree.serve.prompts import (
    check_ids,
    generation_makers,
    grammar_of,
    has_form,
    prompts_of,
)
from wrinklefree.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    parse,
)
from wrinklefree.serve.replies import ChatReply, Reply, TextReply
from wrinklefree.serve.request_log import RequestLog
from wrinklefree.serve.responses import Detokenized, Model, ModelList, Tokenized
from wrinklefree.serve.settings import Settings
from wrinklefree.serve.threads import Threads
from wrinklefree.serve.worker import Worker


def build_app(model: ServedModel, settings: Settings) -> FastAPI:
    """An application that serves `model`; its worker is at `app.state.worker`.

    The engine thread starts and stops with the application's lifespan.
    """
    worker = Worker(model, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    # FastAPI sees no models of the bodies, which are parsed by hand, and its interactive
    # documentation loads scripts from elsewhere: both off.
    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.state.worker = worker
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(RequestLog)  # the last one added is the first to be passed
    _add_error_handlers(app)
    _add_status_routes(app, model, settings, worker)
    threads = Threads()
    _add_generation_routes(app, model, settings, worker, threads)
    _add_tokenizer_routes(app, model, settings, threads)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        reason = {404: "no such path", 405: "method not allowed"}.get(error.status_code)
        return ApiError(
            error.status_code, reason or "bad request", headers=error.headers
        ).response()


def _add_status_routes(
    app: FastAPI, model: ServedModel, settings: Settings, worker: Worker
) -> None:
    page = chat_page()
    description = openapi(settings)
    entry = Model(
        id=settings.model_name,
        object="model",
        created=int(time.time()),
        owned_by="wrinklefree",
        context_length=model.context_length,
        default_sampling=dict(model.default_sampling),
        meta=model.meta,
    )

    @app.get("/")
    @app.head("/")
    async def chat() -> Response:
        return page

    @app.get("/health")
    @app.head("/health")
    @app.get("/ready")
    @app.head("/ready")
    async def health() -> Response:
        """200 once a token was generated; 503 before that, and while shutting down."""
        if worker.is_ready:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable"}, status_code=503)

    @app.get("/openapi.json")
    async def describe() -> Response:
        return JSONResponse(description)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(worker.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(object="list", data=[entry])

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Model:
        _check_model(name, settings)
        return entry


def _add_generation_routes(
    app: FastAPI, model: ServedModel, settings: Settings, worker: Worker, threads: Threads
) -> None:
    grammars = Grammars(model.tokenizer)

    async def answer(
        request: Request, kind: type[ChatRequest] | type[CompletionRequest]
    ) -> Response:
        body = await _body(request, settings)
        asked = parse(kind, body)
        _check_model(asked.model, settings)
        prompts = await threads.read(len(body), lambda: prompts_of(model, asked))
        grammar = None
        if has_form(asked):
            grammar = await threads.compile(lambda: grammar_of(grammars, asked))
        makers = generation_makers(model, settings, asked, prompts, grammar)
        job = Job(worker, makers, num_prompt_tokens=sum(map(len, prompts)))
        request.state.job = job  # for the log
        head = (settings.model_name, model.tokenizer, asked.alternatives)
        reply: Reply = TextReply(*head)
        if isinstance(asked, ChatRequest):
            reply = ChatReply(*head, {tool.function.name for tool in asked.usable_tools})
        if asked.stream:
            return EventStream(
                job,
                reply,
                includes_usage=asked.includes_usage,
                keep_alive_s=settings.keep_alive_s,
            )
        return await whole_answer(request, job, reply)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await answer(request, ChatRequest)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, CompletionRequest)


def _add_tokenizer_routes(
    app: FastAPI, model: ServedModel, settings: Settings, threads: Threads
) -> None:
    tokenizer = model.tokenizer

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Tokenized:
        body = await _body(request, settings)
        asked = parse(TokenizeRequest, body)
        _check_model(asked.model, settings)
        ids = await threads.read(
            len(body),
            lambda: tokenizer.encode(asked.prompt, add_special=asked.add_special_tokens),
        )
        return Tokenized(count=len(ids), max_model_len=model.context_length, tokens=ids)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Detokenized:
        body = await _body(request, settings)
        asked = parse(DetokenizeRequest, body)
        _check_model(asked.model, settings)
        check_ids(asked.tokens, tokenizer, param="tokens")
        text = await threads.read(len(body), lambda: tokenizer.decode(asked.tokens))
        return Detokenized(prompt=text)


def _check_model(name: str | None, settings: Settings) -> None:
    if name is not None and name != settings.model_name:
        raise ApiError(
            404,
            f"no such model; this server has {settings.model_name!r}",
            param="model",
            code="model_not_found",
        )


async def _body(request: Request, settings: Settings) -> bytes:
    """The request body; raises ApiError 413 as soon as it is too long, 408 when it is too slow."""

    def check(size: int) -> None:
        if size > settings.max_body_bytes:
            raise ApiError(413, f"the body is larger than {settings.max_body_bytes} bytes")

    async def read() -> bytes:
        check(int(request.headers.get("content-length", 0)))  # digits: h11 looks at them
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            check(size)
            parts.append(part)
        return b"".join(parts)

    reading = asyncio.create_task(read())
    try:
        # NOTE: up to Python 3.11 asyncio.wait_for may swallow a cancellation.
        done, _ = await asyncio.wait({reading}, timeout=settings.body_timeout_s)
        if not done:
            raise ApiError(408, "the body did not arrive in time")
        return reading.result()
    except ClientDisconnect:
        raise ApiError(400, "the body is incomplete") from None
    finally:
        reading.cancel()
