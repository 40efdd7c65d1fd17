"""Bodies of requests: read within limits of bytes and time, then decoded strictly.

The server may hold `Limits.bodies_bytes` of bodies whose requests are not answered. While it is read, a body counts
with its declared length, or with the largest that is allowed where it declares none.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest

from ssd1b_jax.errors import Error
from ssd1b_jax.server.options import Limits

MAX_FIELDS = 200
MAX_FIELD_BYTES = 1 << 20  # of a form's field that is no file
MAX_QUOTE = 80  # characters of what was sent that a sentence quotes


class BodyError(Error):
    """A request that can't be used. `field` is the part of it at fault, where that is known."""

    def __init__(self, sentence: str, *, status: int = 400, field: str | None = None, retry_after: float | None = None):
        super().__init__(sentence)
        self.http_status = status
        self.field = field
        self.retry_after = retry_after


class Gone(Error):
    """The caller has closed the connection; nobody reads the answer."""

    http_status = 499


class Bodies:
    """Reads bodies, and counts the bytes of those that are in memory."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._reserved = 0

    async def read(self, request: HTTPRequest) -> bytes:
        """The body. Raises BodyError with 413 for one that is too large, 408 for one that stalls."""
        self._reserve(request)
        return b"".join([part async for part in self._parts(request)])

    async def read_json(self, request: HTTPRequest, kind: Any) -> Any:
        """A JSON body as `kind`. Raises BodyError, which names the field at fault."""
        content = content_type(request.headers)
        if content != "application/json":
            shown = content[:MAX_QUOTE] or "none"
            raise BodyError(f"Content-Type must be application/json, got {shown}: set the header", status=415)
        return decode_json(await self.read(request), kind)

    async def read_form(self, request: HTTPRequest) -> dict[str, list[str | bytes]]:
        """A multipart form: the values of each field in order, files as bytes. Raises BodyError."""
        content = content_type(request.headers)
        if content != "multipart/form-data":
            raise BodyError(
                f"Content-Type must be multipart/form-data, got {content[:MAX_QUOTE] or 'none'}", status=415
            )
        limits = dict(max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
        values: dict[str, list[str | bytes]] = {}
        self._reserve(request)
        parser = MultiPartParser(request.headers, self._parts(request), **limits)
        try:
            form = await parser.parse()
            for name, value in form.multi_items():
                content = value if isinstance(value, str) else await value.read()
                values.setdefault(name, []).append(content)
        except MultiPartException as error:
            raise BodyError(f"the form can't be read: {error.message}") from None
        except (KeyError, ValueError) as error:
            raise BodyError(f"the form can't be read: {error}") from None
        finally:
            for file in getattr(parser, "_files_to_close_on_error", ()):  # also of a form that broke off
                file.close()
        return values

    def release(self, request: HTTPRequest) -> None:
        """Give back the room of a body whose request is answered."""
        self._count(request, 0)

    def _count(self, request: HTTPRequest, size: int) -> None:
        self._reserved += size - getattr(request.state, "body_bytes", 0)
        request.state.body_bytes = size

    def _reserve(self, request: HTTPRequest) -> None:
        """Room for a body, until `release`."""
        length, most = _declared_length(request.headers), self._limits.body_bytes
        if length is not None and length > most:
            raise BodyError(f"a request may have {most} bytes, got {length}: send a smaller picture", status=413)
        reserved = most if length is None else length
        if self._reserved + reserved > self._limits.bodies_bytes:
            raise BodyError("too many large requests arrive at once: try again", status=503, retry_after=2.0)
        self._count(request, reserved)

    async def _parts(self, request: HTTPRequest) -> AsyncIterator[bytes]:
        size, limits = 0, self._limits
        stream, whole = request.stream(), asyncio.timeout(limits.body_seconds)
        try:
            async with whole:
                while True:
                    async with asyncio.timeout(limits.body_idle_seconds):
                        part = await anext(stream, None)
                    if part is None:
                        self._count(request, size)
                        return
                    size += len(part)
                    if size > limits.body_bytes:
                        raise BodyError(f"a request may have {limits.body_bytes} bytes, got more", status=413)
                    yield part
        except TimeoutError:
            late = f"took longer than {limits.body_seconds:g} seconds"
            reason = late if whole.expired() else f"stopped arriving after {size} bytes"
            raise BodyError(f"the body {reason}: send it again", status=408) from None
        except ClientDisconnect:
            raise Gone("the caller has closed the connection") from None


def decode_json(body: bytes, kind: Any) -> Any:
    """Strict JSON as `kind`: no NaN, no lone surrogates, numbers of their type. Raises BodyError."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        sentence, _, path = str(error).partition(" - at `")
        field = path.rstrip("`").removeprefix("$").lstrip(".")
        raise BodyError(f"{field or 'the body'}: {sentence}", field=field or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(f"the body is not JSON: {error}") from None


@dataclass(frozen=True)
class Link:
    """An address that a picture is to be fetched from, and the field that it came in."""

    url: str
    field: str


def decode_picture(text: Any, field: str) -> bytes | Link:
    """The bytes of a file that was sent as base64, with or without `data:image/…;base64,` before it, or its address."""
    if not isinstance(text, str) or not text:
        got = "an empty text" if text == "" else type(text).__name__
        raise BodyError(f"{field} must be a picture's file in base64, got {got}", field=field)
    if text[:8].lower().startswith(("http://", "https://")):
        return Link(text, field)
    head, comma, rest = text.partition(",")
    if comma and head.startswith("data:"):
        if not head.endswith(";base64"):
            raise BodyError(f"{field}: a data URL must be base64, got {head[:MAX_QUOTE]!r}", field=field)
        text = rest
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BodyError(f"{field} must be a picture's file in base64, got other text", field=field) from None


def only(values: Mapping[str, list[Any]], name: str) -> Any:
    """The one value of a form's field, None where it is absent. Raises BodyError where there are several."""
    given = values.get(name, [])
    if len(given) > 1:
        raise BodyError(f"{name}: one value is allowed, got {len(given)}", field=name)
    return given[0] if given else None


def content_type(headers: Headers) -> str:
    """The media type, without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _declared_length(headers: Headers) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
