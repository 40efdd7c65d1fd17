"""Segmind's API: POST /v1/ssd-img2img answers with the picture, POST /v2/ssd-img2img with addresses to poll."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax.server import answers, fields
from ssd1b_jax.server.bodies import BodyError
from ssd1b_jax.server.fields import Fields
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.service import Service
from ssd1b_jax.settings import named

PREFIXES = ("/v1/ssd-img2img", "/v2")
DEFAULTS = {
    "scheduler": "DPM2 Karras",
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
    "strength": 0.9,
    "output_format": "jpeg",
}
KNOWN = {**named("segmind"), "num_interface_steps": "num_inference_steps", "output_format": "format"}
NEEDED = ("image", "prompt")
MAX_SAMPLES = 4
STATES = {"waiting": "QUEUED", "running": "PROCESSING", "done": "COMPLETED"}


def error(status: int, sentence: str, field: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error in Segmind's form; a wrong content type is 406 there."""
    return answers.as_json({"error": sentence}, 406 if status == 415 else status, headers)


def routes(service: Service) -> list[Route]:
    segmind = Segmind(service)
    return [
        Route("/v1/ssd-img2img", segmind.generate, methods=["POST"]),
        Route("/v2/ssd-img2img", segmind.submit, methods=["POST"]),
        Route("/v2/requests/{id}/status", segmind.status, name="segmind-status"),
        Route("/v2/requests/{id}", segmind.response, name="segmind-response"),
    ]


class Segmind:
    """The routes, for one server."""

    def __init__(self, service: Service):
        self._service = service

    async def generate(self, request: HTTPRequest) -> Response:
        sent = await self._service.bodies.read_json(request, dict[str, Any])
        job = await self._start(request, sent)
        pictures = await job.answer(request)
        headers = answers.headers_of(pictures) | {"x-remaining-credits": "0"}
        texts = [picture.file.base64 for picture in pictures]
        if len(texts) > 1:
            return answers.as_json({"images": texts}, headers=headers)
        if sent.get("base64") is True:
            return answers.as_json({"image": texts[0]}, headers=headers)
        return answers.as_picture(pictures[0], headers)

    async def submit(self, request: HTTPRequest) -> Response:
        job = await self._start(request, await self._service.bodies.read_json(request, dict[str, Any]))
        self._service.kept.add(job)
        status, response = (str(request.url_for(f"segmind-{name}", id=job.id)) for name in ("status", "response"))
        body = {"request_id": job.id, "status": "QUEUED", "poll_url": status, "status_url": status}
        return answers.as_json(body | {"response_url": response})

    async def status(self, request: HTTPRequest) -> Response:
        return answers.as_json(_describe(self._job(request)))

    async def response(self, request: HTTPRequest) -> Response:
        job = self._job(request)
        body = _describe(job)
        if job.state == "done":
            urls = [str(request.url_for("picture", id=job.id, index=index)) for index in range(job.count)]
            body["output"] = urls[0] if len(urls) == 1 else urls
        return answers.as_json(body)

    async def _start(self, request: HTTPRequest, sent: dict[str, Any]) -> Job:
        asked = _read(sent)
        return await self._service.start(request, asked, self._service.nearest_size())

    def _job(self, request: HTTPRequest) -> Job:
        return self._service.kept.job(request.path_params["id"])


def _read(sent: dict[str, Any]) -> Fields:
    for name in NEEDED:
        if not isinstance(sent.get(name), str) or not sent[name]:
            raise BodyError(f"{name} must be given, as text", field=name)
    given = {KNOWN.get(name) for name in sent}
    defaults = {name: value for name, value in DEFAULTS.items() if KNOWN[name] not in given}
    asked = fields.read(defaults | sent, KNOWN)
    if asked.count > MAX_SAMPLES:
        raise fields.FieldError(f"samples must be from 1 to {MAX_SAMPLES}, got {asked.count}", "samples")
    return asked


def _describe(job: Job) -> dict[str, Any]:
    state = STATES.get(job.state, "FAILED")
    body: dict[str, Any] = {"status": state, "request_id": job.id, "metrics": {"inference_time": job.seconds}}
    return body | ({"error": job.error.sentence} if job.error else {})
