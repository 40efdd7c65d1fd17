"""The server on many machines, as an application of Ray Serve.

A front takes each request whole, and hands it to one of the replicas, which are servers with a model each: to the one
that keeps what the request names, or else to that of two drawn at random which has fewer requests. What a replica held
when it died goes to another one, or is answered 503.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from starlette.applications import Starlette
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssd1b_jax.errors import DeviceError, Error
from ssd1b_jax.server import answers, ids, serving
from ssd1b_jax.server.app import create_app, dialect_of
from ssd1b_jax.server.bodies import Bodies
from ssd1b_jax.server.guard import Guard
from ssd1b_jax.server.options import ServerOptions
from ssd1b_jax.server.service import Service

log = logging.getLogger(__name__)

TRIES = 2  # replicas that one request may be handed to
SENT = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client", "server")
MARKED_BYTES = 4096  # at the beginning of a body, where a batch names its file
HEALTH_SECONDS = 5.0  # between two looks at a replica
RETRY_SECONDS = "5"


class ByOwner(RequestRouter):
    """Ray's way to choose a replica: the owner of what a request names, else two at random, of which it takes the one
    that has fewer requests."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        scope, body = pending_request.args if pending_request else ({"raw_path": b""}, b"")
        named = (scope.get("raw_path") or scope["path"].encode()) + b" " + body[:MARKED_BYTES]
        owners = [each for each in candidate_replicas if _mark(each.replica_id.unique_id).encode() in named]
        return [owners or random.sample(candidate_replicas, min(2, len(candidate_replicas)))]


def _mark(unique_id: str) -> str:
    return unique_id + ids.MARK_END


class Replica:
    """A server with its model, which is ready once this is made."""

    async def __init__(self, model: str, options: ServerOptions, load: Callable[[], Any]):
        ids.mark(serve.get_replica_context().replica_id.unique_id)
        self._service = Service(model, options)
        self._app = create_app(self._service)
        await serving.start(self._service, load, log.info)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """The messages of the app's answer to a request."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        is_read, left = False, asyncio.Event()

        async def receive() -> Message:
            nonlocal is_read
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(scope, receive, messages.put)
            finally:
                messages.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                yield message
            await running
        finally:  # also where the caller has left
            left.set()

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        if self._service.broken.is_set():
            raise DeviceError("the devices failed again and again: see the log")


class Front:
    """Takes requests: checks whether they may pass, reads their bodies within limits, and hands them on."""

    def __init__(self, replicas: Any, options: ServerOptions):
        self._replicas = replicas.options(stream=True)
        self._options = options
        self._bodies = Bodies(options.limits)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app = Starlette(routes=[Mount("/", app=self._forward)])
        return Guard(app, self._options, _refuse, self._report)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPRequest(scope, receive)
        try:
            body = await self._bodies.read(request)
        except Error as error:
            headers = answers.refusal_headers(error)
            await _refuse(scope["path"], error.http_status, error.sentence, headers)(scope, receive, send)
            return
        sent = {name: scope[name] for name in SENT if name in scope}
        for _ in range(TRIES):
            try:
                if await self._hand_on(sent, body, receive, send):
                    return
            except (DeploymentUnavailableError, BackPressureError):
                break
        sentence = "the machine that was at this request is gone: try again"
        await _refuse(scope["path"], 503, sentence, {"retry-after": RETRY_SECONDS})(scope, receive, send)

    async def _hand_on(self, sent: dict[str, Any], body: bytes, receive: Receive, send: Send) -> bool:
        """Send a replica's answer. False where it died before it had one; where it had begun, RayActorError."""
        has_begun = False
        messages = self._replicas.answer.remote(sent, body)
        leaving = asyncio.ensure_future(_left(receive))
        leaving.add_done_callback(lambda task: task.cancelled() or messages.cancel())
        try:
            async for message in messages:
                has_begun = True
                await send(message)
            return True
        except RayActorError:
            if has_begun:
                raise
            return False
        except asyncio.CancelledError:
            messages.cancel()
            raise
        finally:
            leaving.cancel()

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        self._bodies.release(HTTPRequest(scope))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refuse(path: str, status: int, sentence: str, headers: Mapping[str, str]) -> Response:
    return dialect_of(path).error(status, sentence, None, headers)


def application(
    model: str,
    options: ServerOptions,
    load: Callable[[], Any],
    *,
    replicas: int = 1,
    resources: Mapping[str, float] | None = None,
    fronts: int = 1,
) -> serve.Application:
    """The application: `fronts` that take requests, and `replicas` for each of which Ray reserves `resources`."""
    most = options.limits.requests
    amounts = dict(resources or {"CPU": 1})
    replica = serve.deployment(Replica).options(
        name="replica",
        num_replicas=replicas,
        max_ongoing_requests=most,
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=options.grace_seconds,
        request_router_config=RequestRouterConfig(request_router_class=ByOwner),
        ray_actor_options=dict(
            num_cpus=amounts.pop("CPU", 0), num_gpus=amounts.pop("GPU", 0), resources=amounts or None
        ),
    )
    front = serve.deployment(serve.ingress()(Front)).options(
        name="front", num_replicas=fronts, max_ongoing_requests=2 * most, ray_actor_options=dict(num_cpus=0)
    )
    return front.bind(replica.bind(model, options, load), options)
