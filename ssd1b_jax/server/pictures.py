"""Pictures in and out of requests: checked before they are queued, and written at the size that was asked for."""

import base64
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.errors import ImageError
from ssd1b_jax.records.output import Output
from ssd1b_jax.records.saving import encode, put
from ssd1b_jax.request import PICTURES
from ssd1b_jax.result import Result
from ssd1b_jax.server.fields import FieldError, Fields
from ssd1b_jax.server.inpainting import Region
from ssd1b_jax.server.options import Limits, ServerOptions, Size

PREVIEW_QUALITY = 80


@dataclass(frozen=True)
class Sizing:
    """`computed` is the size that the model makes, `asked` the one that the caller gets: (width, height) in pixels.

    With a `region` it is a part of the picture that the model makes.
    """

    computed: Size
    asked: Size
    region: Region | None = None

    @property
    def is_enlarged(self) -> bool:
        return self.computed != self.asked

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where the two differ."""
        if self.region is not None:
            (width, height), (left, top, *_) = self.region.size, self.region.box
            computed = "{}x{}".format(*self.computed)
            return (f"the part of {width}x{height} pixels at {left},{top} was made at {computed} and put back",)
        if not self.is_enlarged:
            return ()
        (width, height), (asked_width, asked_height) = self.computed, self.asked
        return (f"made at {width}x{height} and brought to {asked_width}x{asked_height}",)


@dataclass(frozen=True)
class File:
    """A picture's file and its media type."""

    data: bytes
    media_type: str

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode("ascii")


@dataclass(frozen=True)
class Picture:
    """A picture that is done: its file, its record, and what answers say of it."""

    file: File
    record: Mapping[str, Any]
    size: Size
    notes: tuple[str, ...]
    seconds: float

    @property
    def request(self) -> Mapping[str, Any]:
        """The settings that it was made with, as its record has them."""
        return self.record["request"]

    @property
    def seed(self) -> int:
        return self.request["seed"]


def write(result: Result, output: Output, sizing: Sizing, options: ServerOptions) -> Picture:
    """The picture of a result, enlarged to the size asked for or put back, with its record in the file.

    The same file goes into the folder that keeps pictures, if there is one. With credentials it is signed.
    """
    pixels = result.pixels if sizing.region is None else sizing.region.paste(result.pixels)
    form = output.format or "png"
    name = f"{result.seed}{dataclasses.replace(output, format=form).suffix}"
    size = sizing.asked if sizing.is_enlarged else None
    about = dict(result.record), result.request
    media_type = f"image/{form}"

    def sign(data: bytes) -> bytes:
        return data if options.credentials is None else options.credentials.sign(data, media_type, result.request)

    if options.keep is None:
        encoded = encode(pixels, name, *about, output, size)
        encoded = encoded._replace(data=sign(encoded.data))
    else:
        unique = dataclasses.replace(output, overwrite=False)
        _, encoded = put(pixels, options.keep / name, *about, unique, size, sign)
    file = File(encoded.data, media_type)
    written = size or tuple(output.upscale * side for side in sizing.computed)
    return Picture(file, encoded.record, written, (*result.notes, *sizing.notes), result.seconds)


def write_preview(pixels: np.ndarray, size: Size) -> File:
    """What a picture is expected to become, as a JPEG of its size."""
    scaled = images.resize(pixels, *size, "stretch")
    return File(images.encode(scaled, ".jpg", quality=PREVIEW_QUALITY), "image/jpeg")


def check(fields: Fields, sizing: Sizing, limits: Limits) -> None:
    """Refuse what would take too much memory or time, before it is queued. Raises FieldError."""
    if fields.count > limits.most_pictures:
        name = fields.name("num_images")
        raise FieldError(f"{name} must be at most {limits.most_pictures}, got {fields.count}", name)
    _check_prompts(fields, limits)
    for setting in PICTURES:
        if isinstance(data := fields.settings.get(setting), bytes):
            check_input(data, fields.name(setting), limits)
    width, height = sizing.asked
    pixels = width * height * fields.output.upscale**2
    if pixels > limits.output_pixels:
        raise FieldError(f"a picture may have {limits.output_pixels} pixels, got {pixels}: ask for a smaller one", None)


def _check_prompts(fields: Fields, limits: Limits) -> None:
    for setting, value in fields.settings.items():
        if "prompt" in setting and isinstance(value, str) and len(value) > limits.prompt_characters:
            name = fields.name(setting)
            raise FieldError(f"{name} may have {limits.prompt_characters} characters, got {len(value)}", name)


def check_input(data: bytes, name: str, limits: Limits) -> None:
    """Refuse a file that is no picture, or one of too many pixels, before it is decoded. Raises FieldError."""
    with naming(name):
        width, height = images.probe(data)
    if width * height > limits.input_pixels:
        raise FieldError(
            f"{name} may have {limits.input_pixels} pixels, got {width} x {height}: send a smaller one", name
        )


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn an ImageError of a picture into a FieldError that has the caller's name for it."""
    try:
        yield
    except ImageError as error:
        raise FieldError(str(error).replace("the picture", name, 1), name) from None
