"""The routes of a server, and how errors become answers in the form of the dialect that a path belongs to."""

import logging
from collections.abc import Mapping
from types import ModuleType

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from ssd1b_jax.errors import Error
from ssd1b_jax.server import a1111, answers, documents, huggingface, metrics, openai, openai_batches, own, page, segmind
from ssd1b_jax.server.guard import Guard
from ssd1b_jax.server.logs import FIELDS
from ssd1b_jax.server.schema import openapi
from ssd1b_jax.server.service import Service

log = logging.getLogger(__name__)

DIALECTS: tuple[ModuleType, ...] = (segmind, openai, a1111, huggingface)


def create_app(service: Service) -> ASGIApp:
    """The ASGI app of a server."""
    common = Common(service)
    origins = service.options.origins
    cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app = Starlette(
        routes=[
            Route("/healthz", common.healthz),
            Route("/readyz", common.readyz),
            Route("/metrics", common.metrics),
            Route("/openapi.json", common.openapi),
            *(route for dialect in (*DIALECTS, openai_batches, own, page) for route in dialect.routes(service)),
            *documents.routes(),
        ],
        middleware=[cors] if origins else [],
        exception_handlers={Error: common.failed, HTTPException: common.failed, Exception: common.crashed},
    )
    return Guard(app, service.options, common.refuse, common.report)


def dialect_of(path: str) -> ModuleType:
    """The module that a path belongs to; our own where no dialect claims it."""
    for dialect in DIALECTS:
        if any(path == prefix or path.startswith(f"{prefix}/") for prefix in dialect.PREFIXES):
            return dialect
    return own


class Common:
    """Routes that belong to no dialect, and errors of all."""

    def __init__(self, service: Service):
        self._service = service

    async def healthz(self, request: HTTPRequest) -> Response:
        """The process answers."""
        return answers.as_json({"status": "ok"})

    async def readyz(self, request: HTTPRequest) -> Response:
        """Pictures are taken: programs are compiled, and the server is not about to stop."""
        state = self._service.state
        sizes = [f"{width}x{height}" for width, height in self._service.sizes]
        return answers.as_json({"status": state, "sizes": sizes}, 200 if state == "ready" else 503)

    async def metrics(self, request: HTTPRequest) -> Response:
        return Response(self._service.metrics.text(self._service), media_type=metrics.MEDIA_TYPE)

    async def openapi(self, request: HTTPRequest) -> Response:
        return answers.as_json(openapi(self._service))

    def refuse(self, path: str, status: int, sentence: str, headers: Mapping[str, str]) -> Response:
        """An answer before any route."""
        return dialect_of(path).error(status, sentence, None, headers)

    def report(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an answer, log it, and give back the room of its request's body."""
        self._service.bodies.release(HTTPRequest(scope))
        path, state = scope["path"], scope["state"]
        dialect = dialect_of(path).__name__.rpartition(".")[2]
        self._service.metrics.answers.labels(dialect=dialect, status=str(status)).inc()
        self._service.metrics.seconds.observe(seconds)
        fields = dict(
            method=scope["method"],
            path=path,
            status=status,
            seconds=round(seconds, 3),
            caller=state["caller"],
            request_id=state["request_id"],
        )
        log.info("answer", extra={FIELDS: fields})

    async def failed(self, request: HTTPRequest, error: Exception) -> Response:
        """An error of ours, or of the router: its sentence, and the field that it names."""
        if isinstance(error, HTTPException):
            status, sentence, headers = error.status_code, str(error.detail), dict(error.headers or {})
        else:
            status, sentence, headers = error.http_status, error.sentence, answers.refusal_headers(error)
        return dialect_of(request.url.path).error(status, sentence, answers.field_of(error), headers)

    async def crashed(self, request: HTTPRequest, error: Exception) -> Response:
        """A bug: its traceback goes to the log, and no word of it to the caller."""
        request_id = request.state.request_id
        log.error("crash", exc_info=error, extra={FIELDS: dict(request_id=request_id)})
        sentence = f"the server has failed: its log tells why, under request {request_id}"
        return dialect_of(request.url.path).error(500, sentence)
