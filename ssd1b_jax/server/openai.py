"""OpenAI's Images API: /v1/images/edits, /v1/images/generations and /v1/models.

Extra fields are settings, by any of their names: strength, steps, guidance_scale, negative_prompt, seed,
scheduler and all others. A mask's transparent part is remade; a mask without transparency is white there.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, NamedTuple

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import openai_batch
from ssd1b_jax.server import answers, fields, masks
from ssd1b_jax.server.bodies import BodyError, only
from ssd1b_jax.server.fields import Fields
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.options import MAX_SIDE, Size
from ssd1b_jax.server.pictures import Picture, Sizing
from ssd1b_jax.server.service import Service

PREFIXES = ("/v1/images", "/v1/models", "/v1/files", "/v1/batches")
IMAGES = ("image", "image[]")
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
MAX_PARTIAL = 3
EDIT, GENERATION = "image_edit", "image_generation"  # as names of events begin
NEEDED = {EDIT: fields.NEEDED, GENERATION: fields.FROM_TEXT}
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def error(status: int, sentence: str, field: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error in OpenAI's form."""
    return answers.as_json(error_body(status, sentence, field), status, headers)


def error_body(status: int, sentence: str, field: str | None) -> dict[str, Any]:
    return {"error": {"message": sentence, "type": _kind(status), "param": field, "code": None}}


def _kind(status: int) -> str:
    return KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")


def routes(service: Service) -> list[Route]:
    openai = OpenAI(service)
    return [
        Route("/v1/models", openai.models),
        Route("/v1/images/edits", openai.edits, methods=["POST"]),
        Route("/v1/images/generations", openai.generations, methods=["POST"]),
    ]


class OpenAI:
    """The routes, for one server."""

    def __init__(self, service: Service):
        self._service = service

    async def models(self, request: HTTPRequest) -> Response:
        name, created = self._service.model, int(self._service.started)
        model = {"id": name, "object": "model", "created": created, "owned_by": "ssd1b_jax"}
        return answers.as_json({"object": "list", "data": [model]})

    async def generations(self, request: HTTPRequest) -> Response:
        sent = await self._service.bodies.read_json(request, dict[str, Any])
        for name in IMAGES:
            if sent.pop(name, None) is not None:
                raise BodyError(f"{name}: pictures are remade at /v1/images/edits", field=name)
        return await self._answer(request, sent, GENERATION)

    async def edits(self, request: HTTPRequest) -> Response:
        form = await self._service.bodies.read_form(request)
        images = [file for name in IMAGES for file in form.pop(name, [])]
        if len(images) != 1 or not isinstance(images[0], bytes):
            raise BodyError(f"image must be one picture's file, got {len(images)} values", field="image")
        sent = {name: only(form, name) for name in form} | {"image": images[0]}
        return await self._answer(request, sent, EDIT)

    async def start(
        self,
        request: HTTPRequest,
        sent: dict[str, Any],
        options: "Options",
        kind: str,
        priority: Literal["interactive", "batch"] = "interactive",
    ) -> "Started":
        """The job of what was sent, without its options. Raises as `Service.start`."""
        if mask := sent.get("mask"):
            file = mask if isinstance(mask, bytes) else await self._service.picture(mask, "mask")
            sent["mask"] = await self._service.mask(file, "mask", masks.of_openai)
        asked = fields.read(sent, needed=NEEDED[kind])
        sizing = self._service.nearest_size(*options.size)
        job = await self._service.start(request, asked, sizing, priority)
        return Started(job, sizing, _envelope(asked, sizing))

    async def _answer(self, request: HTTPRequest, sent: dict[str, Any], kind: str) -> Response:
        options = Options(sent)
        started = await self.start(request, sent, options, kind)
        if options.is_streamed:
            return answers.as_events(self._events(started, options, kind))
        job = started.job
        pictures = await job.answer(request)
        if options.response_format == "url":
            self._service.kept.add(job)
        data = [self._item(request, job, index, options) for index in range(len(pictures))]
        return answers.as_json(started.envelope | {"data": data}, headers=answers.headers_of(pictures))

    async def _events(self, started: "Started", options: "Options", kind: str) -> AsyncIterator[tuple[str, Any]]:
        """At most `partial_images` previews of each picture, and each picture when it is done."""
        job, sizing, envelope = started
        done, shown = 0, 0
        try:
            async for _ in job.looks():
                for picture in job.pictures[done:]:
                    yield _completed(picture, kind, envelope)
                    done, shown = done + 1, 0
                if shown < options.partial_images and (pixels := job.preview) is not None:
                    file = await self._service.preview(pixels, sizing.computed)
                    name = f"{kind}.partial_image"
                    yield name, {"type": name, "b64_json": file.base64, "partial_image_index": shown, **envelope}
                    shown += 1
            for picture in job.pictures[done:]:
                yield _completed(picture, kind, envelope)
            if job.error is not None:
                failure = {"message": job.error.sentence, "type": _kind(job.error.http_status), "code": None}
                yield "error", {"type": "error", "error": failure}
        finally:
            job.cancel()

    def _item(self, request: HTTPRequest, job: Job, index: int, options: "Options") -> dict[str, Any]:
        picture = job.pictures[index]
        common = {"seed": picture.seed, "notes": picture.notes}
        if options.response_format == "url":
            return {"url": str(request.url_for("picture", id=job.id, index=index)), **common}
        return {"b64_json": picture.file.base64, **common}


class Started(NamedTuple):
    """A job on its way; `envelope` is what its answer, or each of its events, begins with."""

    job: Job
    sizing: Sizing
    envelope: dict[str, Any]


class Options:
    """OpenAI's own fields, taken out of those that were sent. Raises BodyError."""

    def __init__(self, sent: dict[str, Any]):
        self.size = _size(_text(sent, "size", "auto"))
        self.response_format = _text(sent, "response_format", "b64_json")
        if self.response_format not in ("b64_json", "url"):
            shown = self.response_format[:40]
            raise BodyError(f"response_format must be b64_json or url, got {shown!r}", field="response_format")
        try:
            self.is_streamed = fields.is_true(_text(sent, "stream", "false"))
        except ValueError as error:
            raise BodyError(f"stream must be true or false, got {str(error)[:40]!r}", field="stream") from None
        self.partial_images = _partial(_text(sent, "partial_images", "0"))
        for name in openai_batch.WITHOUT_EFFECT:
            sent.pop(name, None)


def _text(sent: dict[str, Any], name: str, default: str) -> str:
    """A field as forms have it; JSON's switches and numbers as text."""
    value = sent.pop(name, None)
    if isinstance(value, bool | int):
        return json.dumps(value)
    if not isinstance(value, str | None):
        raise BodyError(f"{name} must be text, got {type(value).__name__}", field=name)
    return value or default


def _size(text: str) -> tuple[int | None, int | None]:
    size = openai_batch.size_of(text)
    if size is None:
        return None, None
    if not 1 <= min(size) <= max(size) <= MAX_SIDE:
        raise BodyError(
            f"size must be auto or WIDTHxHEIGHT of up to {MAX_SIDE} pixels, got {text[:40]!r}", field="size"
        )
    return size


def _partial(text: str) -> int:
    if text not in ("0", "1", "2", "3"):
        raise BodyError(f"partial_images must be from 0 to {MAX_PARTIAL}, got {text[:40]!r}", field="partial_images")
    return int(text)


def _completed(picture: Picture, kind: str, envelope: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = f"{kind}.completed"
    return name, {"type": name, "b64_json": picture.file.base64, "seed": picture.seed, **envelope}


def _envelope(asked: Fields, sizing: Sizing) -> dict[str, Any]:
    """What the answer and each event have in common."""
    now = int(time.time())
    return {
        "created": now,
        "created_at": now,
        "output_format": asked.output.format or "png",
        "size": _shown(sizing.asked),
        "computed_size": _shown(sizing.computed),
        "quality": "auto",
        "background": "opaque",
        "usage": USAGE,
    }


def _shown(size: Size) -> str:
    width, height = size
    return f"{width}x{height}"
