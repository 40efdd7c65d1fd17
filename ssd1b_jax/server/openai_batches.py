"""OpenAI's batches, /v1/batches: a file of requests, one a line, made when nothing else is to be done.

A line is `{"custom_id", "method": "POST", "url": "/v1/images/edits", "body": {…}}`. The picture of an edit is the id of
a file, base64, or `images` with one of either, as OpenAI has it. Answers are in a file too, a line each.
"""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import openai_batch
from ssd1b_jax.errors import Error, Full
from ssd1b_jax.openai_batch import Call, CallError
from ssd1b_jax.server import answers, ids, openai, openai_files
from ssd1b_jax.server.bodies import BodyError, decode_json
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.kept import NotKept
from ssd1b_jax.server.openai_files import OUTPUT, File, Files, is_id, new_id
from ssd1b_jax.server.service import DEADLINE, Service

log = logging.getLogger(__name__)

ENDPOINTS = {openai_batch.EDITS: openai.EDIT, openai_batch.GENERATIONS: openai.GENERATION}
SPELLED = ("file_id", "image_url")  # how a picture is given in an object
MAX_LINES = 1000
AT_ONCE = 4  # lines of a batch that are on their way
RETRY_SECONDS = 1.0  # after which a line that found the queue full tries again
FULL = "the answers of this batch take all the room there is for files: delete some, and send this line again"
NO_ROOM = 507, openai.error_body(507, FULL, None)
ENDED = ("completed", "failed", "cancelled")


class Create(msgspec.Struct):
    """The body of a new batch."""

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


class Batch:
    """A batch on its way. Its lines are taken in order, a few at once; the answers keep that order."""

    def __init__(self, create: Create, lines: list[Call], files: dict[str, File]):
        self.id = f"batch_{ids.new()}"
        self.create = create
        self.lines = lines
        self.files = files  # that the lines name, by id
        self.total = len(lines)
        self.created = time.time()
        self.ended: float | None = None
        self.status = "in_progress"
        self.completed = self.failed = 0
        self.output_id = new_id()
        self.is_full = False  # there is no room for further answers
        self.task: asyncio.Task | None = None

    def describe(self) -> dict[str, Any]:
        ended = None if self.ended is None else int(self.ended)
        times = {f"{state}_at": ended if self.status == state else None for state in ENDED}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.create.endpoint,
            "completion_window": self.create.completion_window,
            "input_file_id": self.create.input_file_id,
            "output_file_id": self.output_id if self.status == "completed" else None,
            "error_file_id": None,
            "errors": None,
            "status": self.status,
            "created_at": int(self.created),
            "in_progress_at": int(self.created),
            **times,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.create.metadata,
        }


def routes(service: Service) -> list[Route]:
    files = Files(service.options.limits)
    batches = Batches(service, files)
    return [
        *openai_files.routes(service, files),
        Route("/v1/batches", batches.create, methods=["POST"]),
        Route("/v1/batches", answers.no_items, methods=["GET"]),
        Route("/v1/batches/{id}", batches.show, methods=["GET"]),
        Route("/v1/batches/{id}/cancel", batches.cancel, methods=["POST"]),
    ]


class Batches:
    """The routes, for one server, which keeps `Limits.batches` of them."""

    def __init__(self, service: Service, files: Files):
        self._service = service
        self._files = files
        self._images = openai.OpenAI(service)
        self._batches: OrderedDict[str, Batch] = OrderedDict()

    async def create(self, request: HTTPRequest) -> Response:
        create = await self._service.bodies.read_json(request, Create)
        if create.endpoint not in ENDPOINTS:
            sentence = f"endpoint must be one of {', '.join(ENDPOINTS)}, got {create.endpoint[:80]!r}"
            raise BodyError(sentence, field="endpoint")
        self._service.loaded()
        data = self._files.get(create.input_file_id).data
        lines = await self._service.in_thread(lambda: read_lines(data, create.endpoint))
        self._make_room()
        batch = Batch(create, lines, self._files_of(lines))
        self._files.reserve(batch.output_id)
        self._batches[batch.id] = batch
        batch.task = asyncio.create_task(self._run(_without_deadline(request), batch))
        return answers.as_json(batch.describe())

    async def show(self, request: HTTPRequest) -> Response:
        return answers.as_json(self._get(request).describe())

    async def cancel(self, request: HTTPRequest) -> Response:
        batch = self._get(request)
        if batch.status not in ENDED:
            batch.task.cancel()
            await asyncio.wait((batch.task,))
        return answers.as_json(batch.describe())

    def _files_of(self, lines: list[Call]) -> dict[str, File]:
        """The files that lines name, which the batch has until it ends; a line whose file is missing fails alone."""
        files = {}
        for line in lines:
            with suppress(Error):
                for id in filter(is_id, openai_batch.parts(line, SPELLED)[1].values()):
                    files[id] = self._files.get(id)
        return files

    def _get(self, request: HTTPRequest) -> Batch:
        self._expire()
        id = request.path_params["id"]
        if id not in self._batches:
            raise NotKept("no such batch: it never was, or ended too long ago")
        return self._batches[id]

    def _expire(self) -> None:
        oldest = time.time() - self._service.options.limits.kept_seconds
        for id in [batch.id for batch in self._batches.values() if batch.ended is not None and batch.ended < oldest]:
            del self._batches[id]

    def _make_room(self) -> None:
        """Forget the oldest batches that ended. Raises Full where too many are on their way."""
        self._expire()
        for id, batch in [*self._batches.items()]:
            if len(self._batches) >= self._service.options.limits.batches and batch.status in ENDED:
                del self._batches[id]
        if len(self._batches) >= self._service.options.limits.batches:
            raise Full(f"{len(self._batches)} batches are on their way, no more may be: try again", 60.0)

    async def _run(self, request: HTTPRequest, batch: Batch) -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def answer(line: Call) -> bytes:
            async with turns:
                status, body = NO_ROOM if batch.is_full else await self._answer(request, batch, line)
            row = _row(request, line, status, body)
            if not batch.is_full:
                try:
                    self._files.grow(batch.output_id, len(row))
                except Full:
                    batch.is_full = True
                    status, body = NO_ROOM
                    row = _row(request, line, status, body)
            if status == 200:
                batch.completed += 1
            else:
                batch.failed += 1
            return row

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(line)) for line in batch.lines]
            output = b"".join(task.result() for task in tasks)
            self._files.add(File(id=batch.output_id, name=f"{batch.id}.jsonl", purpose=OUTPUT, data=output))
            batch.status = "completed"
        except asyncio.CancelledError:
            batch.status = "cancelled"
        except Exception as error:
            log.error("batch %s failed", batch.id, exc_info=error)
            batch.status = "failed"
        finally:
            self._files.release(batch.output_id)
            batch.lines, batch.files = [], {}
            batch.ended = time.time()

    async def _answer(self, request: HTTPRequest, batch: Batch, line: Call) -> tuple[int, dict[str, Any]]:
        """The status and the body that the line would get as a request of its own."""
        job: Job | None = None
        try:
            while True:
                try:
                    sent = await self._sent(batch, line)
                    options = openai.Options(sent)
                    job, _, envelope = await self._images.start(request, sent, options, ENDPOINTS[line.url], "batch")
                    break
                except Full:
                    await asyncio.sleep(RETRY_SECONDS)
            await asyncio.wait((job.task,))
            if job.error is not None:
                raise job.error
            data = [{"b64_json": picture.file.base64, "seed": picture.seed} for picture in job.pictures]
            return 200, envelope | {"data": data}
        except Error as error:
            return error.http_status, openai.error_body(error.http_status, error.sentence, answers.field_of(error))
        finally:
            if job is not None:
                job.cancel()

    async def _sent(self, batch: Batch, line: Call) -> dict[str, Any]:
        """The body of a line, with its pictures' files."""
        sent, pictures = openai_batch.parts(line, SPELLED)
        for name, given in pictures.items():
            if is_id(given):
                sent[name] = (batch.files.get(given) or self._files.get(given)).data
            else:
                sent[name] = await self._service.picture(given, name)
        return sent


def _row(request: HTTPRequest, line: Call, status: int, body: dict[str, Any]) -> bytes:
    """The line of an answer."""
    response = {"status_code": status, "request_id": request.state.request_id, "body": body}
    id = f"batch_req_{secrets.token_urlsafe(8)}"
    return msgspec.json.encode({"id": id, "custom_id": line.custom_id, "response": response, "error": None}) + b"\n"


def _without_deadline(request: HTTPRequest) -> HTTPRequest:
    """The request for its lines, which wait for as long as it takes."""
    headers = [(name, value) for name, value in request.scope["headers"] if name != DEADLINE.encode()]
    return HTTPRequest(request.scope | {"headers": headers})


def read_lines(data: bytes, endpoint: str) -> list[Call]:
    """The requests of a file. Raises BodyError, which names the line."""
    rows = [row for row in data.splitlines() if row.strip()]
    if not 1 <= len(rows) <= MAX_LINES:
        raise BodyError(f"a batch must have from 1 to {MAX_LINES} lines, got {len(rows)}", field="input_file_id")
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            lines.append(openai_batch.read(decode_json(row, dict[str, Any]), (endpoint,)))
        except (BodyError, CallError) as error:
            raise BodyError(f"line {number}: {error.sentence}", field="input_file_id") from None
    if len({line.custom_id for line in lines}) < len(lines):
        raise BodyError("each custom_id must be another", field="input_file_id")
    return lines
