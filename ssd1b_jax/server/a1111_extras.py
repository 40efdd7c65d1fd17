"""A1111's routes that make no picture by the model: enlarging, and the text in a picture's file."""

from collections.abc import Sequence

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import images
from ssd1b_jax.images.metadata import PARAMETERS
from ssd1b_jax.server import answers
from ssd1b_jax.server.bodies import BodyError
from ssd1b_jax.server.fields import FieldError
from ssd1b_jax.server.options import MAX_SIDE, Limits
from ssd1b_jax.server.pictures import File, check_input, naming
from ssd1b_jax.server.service import Service

BASE = "/sdapi/v1"
NO_UPSCALER, UPSCALER = "None", "Lanczos"
MAX_FACTOR = 8.0
BY_FACTOR, TO_SIZE = 0, 1  # resize_mode


class Upload(msgspec.Struct):
    """The body of png-info."""

    image: str


class Enlargement(msgspec.Struct):
    """How a picture is enlarged: by a factor, or to a size that it covers or fits into."""

    resize_mode: int = BY_FACTOR
    upscaling_resize: float = 2.0
    upscaling_resize_w: int = 512
    upscaling_resize_h: int = 512
    upscaling_crop: bool = True
    upscaler_1: str = NO_UPSCALER


class Single(Enlargement, kw_only=True):
    """The body of extra-single-image."""

    image: str


class Named(msgspec.Struct):
    """A picture of several."""

    data: str
    name: str = ""


class Batch(Enlargement):
    """The body of extra-batch-images."""

    imageList: list[Named] = []


def routes(service: Service) -> list[Route]:
    extras = Extras(service)
    return [
        Route(f"{BASE}/png-info", extras.png_info, methods=["POST"]),
        Route(f"{BASE}/extra-single-image", extras.single, methods=["POST"]),
        Route(f"{BASE}/extra-batch-images", extras.batch, methods=["POST"]),
        Route(f"{BASE}/interrogate", extras.interrogate, methods=["POST"]),
    ]


class Extras:
    """The routes, for one server."""

    def __init__(self, service: Service):
        self._service = service

    async def png_info(self, request: HTTPRequest) -> Response:
        upload = await self._service.bodies.read_json(request, Upload)
        data = await self._service.picture(upload.image, "image")
        check_input(data, "image", self._service.options.limits)
        text = await self._service.in_thread(lambda: images.read_text(data))
        return answers.as_json({"info": text.get(PARAMETERS, ""), "items": text, "parameters": {}})

    async def single(self, request: HTTPRequest) -> Response:
        asked = await self._service.bodies.read_json(request, Single)
        (file,) = await self._enlarge([await self._service.picture(asked.image, "image")], "image", asked)
        return answers.as_json({"html_info": _info(asked), "image": file.base64})

    async def batch(self, request: HTTPRequest) -> Response:
        asked, most = await self._service.bodies.read_json(request, Batch), self._service.options.limits.pictures
        if not 1 <= len(asked.imageList) <= most:
            sentence = f"imageList must have from 1 to {most} pictures, got {len(asked.imageList)}"
            raise BodyError(sentence, field="imageList")
        sources = [await self._service.picture(item.data, "imageList") for item in asked.imageList]
        files = await self._enlarge(sources, "imageList", asked)
        return answers.as_json({"html_info": _info(asked), "images": [file.base64 for file in files]})

    async def interrogate(self, request: HTTPRequest) -> Response:
        raise BodyError("there is no model here that describes pictures", status=404)

    async def _enlarge(self, sources: Sequence[bytes], name: str, asked: Enlargement) -> list[File]:
        limits = self._service.options.limits
        return [await self._service.in_thread(lambda data=data: enlarge(data, name, asked, limits)) for data in sources]


def enlarge(data: bytes, name: str, asked: Enlargement, limits: Limits) -> File:
    """The picture enlarged by Lanczos, as a PNG with the text and the label that its file has."""
    check_input(data, name, limits)
    with naming(name):
        pixels = images.load(data).pixels
        height, width, _ = pixels.shape
        mode, size = _target(asked, width, height)
        if size[0] * size[1] > limits.output_pixels:
            sentence = f"a picture may have {limits.output_pixels} pixels, got {size[0]} x {size[1]}"
            raise FieldError(f"{sentence}: ask for a smaller one", "resize_mode")
        if asked.upscaler_1 != NO_UPSCALER:
            pixels = images.resize(pixels, *size, mode)
        text, label = images.read_text(data), images.read_label(data)
        return File(images.encode(pixels, ".png", text, label=label), "image/png")


def _target(asked: Enlargement, width: int, height: int) -> tuple[str, tuple[int, int]]:
    """How a picture of this size is resized, and its new size."""
    if asked.resize_mode == BY_FACTOR:
        factor = asked.upscaling_resize
        if not 0 < factor <= MAX_FACTOR:
            sentence = f"upscaling_resize must be above 0 and at most {MAX_FACTOR:g}, got {factor}"
            raise FieldError(sentence, "upscaling_resize")
        return "stretch", (max(1, round(width * factor)), max(1, round(height * factor)))
    if asked.resize_mode != TO_SIZE:
        raise FieldError(f"resize_mode must be 0 or 1, got {asked.resize_mode}", "resize_mode")
    size = asked.upscaling_resize_w, asked.upscaling_resize_h
    for field, value in zip(("upscaling_resize_w", "upscaling_resize_h"), size, strict=True):
        if not 1 <= value <= MAX_SIDE:
            raise FieldError(f"{field} must be from 1 to {MAX_SIDE}, got {value}", field)
    if asked.upscaling_crop:
        return "crop", size
    factor = min(size[0] / width, size[1] / height)
    return "stretch", (max(1, round(width * factor)), max(1, round(height * factor)))


def _info(asked: Enlargement) -> str:
    return "" if asked.upscaler_1 in (NO_UPSCALER, UPSCALER) else f"enlarged by {UPSCALER}, which is all there is here"
