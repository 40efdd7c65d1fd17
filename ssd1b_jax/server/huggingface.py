"""Hugging Face's inference API, as `InferenceClient(model="http://HOST/hf").image_to_image` calls it."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import settings
from ssd1b_jax.server import answers, fields
from ssd1b_jax.server.bodies import BodyError, content_type, decode_json
from ssd1b_jax.server.options import MAX_SIDE
from ssd1b_jax.server.service import Service

PREFIXES = ("/hf",)
FORMATS = {"image/jpeg": "jpeg", "image/webp": "webp"}
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
KNOWN = {**settings.SPELLINGS, "inputs": "image"}


class Size(msgspec.Struct):
    """The size that is asked for."""

    width: Side
    height: Side


class Body(msgspec.Struct):
    """A picture in base64, and how it is remade."""

    inputs: str
    parameters: dict[str, Any] = {}


def error(status: int, sentence: str, field: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error in Hugging Face's form."""
    return answers.as_json({"error": sentence}, status, headers)


def routes(service: Service) -> list[Route]:
    return [Route("/hf", HuggingFace(service).image_to_image, methods=["POST"])]


class HuggingFace:
    """The route, for one server."""

    def __init__(self, service: Service):
        self._service = service

    async def image_to_image(self, request: HTTPRequest) -> Response:
        """The body is JSON, or the bytes of a picture where there are no parameters."""
        kind = content_type(request.headers)
        if kind.startswith("text/") or kind.startswith("multipart/"):
            raise BodyError(f"Content-Type must be application/json or a picture's, got {kind[:80]}", status=415)
        data = await self._service.bodies.read(request)
        sent: dict[str, Any] = {"output_format": FORMATS.get(request.headers.get("accept", ""), "png")}
        sizing = self._service.nearest_size()
        if kind == "application/json":
            body = decode_json(data, Body)
            parameters = {name: value for name, value in body.parameters.items() if value is not None}
            if "target_size" in parameters:
                sizing = self._service.nearest_size(*_sides(parameters.pop("target_size")))
            sent |= {"prompt": "", **parameters, "inputs": body.inputs}
        else:
            sent |= {"prompt": "", "inputs": data}
        job = await self._service.start(request, fields.read(sent, KNOWN), sizing)
        (picture, *_) = pictures = await job.answer(request)
        return answers.as_picture(picture, answers.headers_of(pictures))


def _sides(value: Any) -> tuple[int, int]:
    try:
        size = msgspec.convert(value, Size)
    except msgspec.ValidationError as error:
        raise BodyError(f"target_size: {error}", field="target_size") from None
    return size.width, size.height
