"""Answers that all dialects share: JSON, pictures, events, and errors as statuses."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response, StreamingResponse

from ssd1b_jax.errors import Full
from ssd1b_jax.server.pictures import Picture


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def as_picture(picture: Picture, headers: Mapping[str, str] | None = None) -> Response:
    return Response(picture.file.data, headers=headers, media_type=picture.file.media_type)


def as_events(events: AsyncIterator[tuple[str, Any]]) -> StreamingResponse:
    """Server-sent events: a name and a JSON value each."""

    async def lines() -> AsyncIterator[bytes]:
        async for name, value in events:
            yield b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(value))

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(lines(), headers=headers, media_type="text/event-stream")


def headers_of(pictures: Sequence[Picture]) -> dict[str, str]:
    """Seeds, the seconds that the pictures took, and notes, as headers."""
    notes = dict.fromkeys(note for picture in pictures for note in picture.notes)
    headers = {
        "x-seed-value": ",".join(str(picture.seed) for picture in pictures),
        "x-generation-time": f"{sum(picture.seconds for picture in pictures):.3f}",
    }
    if notes:
        headers["x-notes"] = "; ".join(notes).encode("ascii", "backslashreplace").decode().replace("\n", " ")
    return headers


def refusal_headers(error: Exception) -> dict[str, str]:
    """Retry-After for an error that passes with time."""
    seconds = error.seconds if isinstance(error, Full) else getattr(error, "retry_after", None)
    return {} if seconds is None else {"retry-after": str(max(1, math.ceil(seconds)))}


def field_of(error: Exception) -> str | None:
    """The field that an error names."""
    return getattr(error, "field", None)


async def empty_list(request: HTTPRequest) -> Response:
    """A list of what this program does not have."""
    return as_json([])


async def no_items(request: HTTPRequest) -> Response:
    """OpenAI's list of what only those may see who know its id."""
    return as_json({"object": "list", "data": [], "has_more": False})


async def empty_object(request: HTTPRequest) -> Response:
    return as_json({})


async def nothing(request: HTTPRequest) -> Response:
    """The answer to a change that changes nothing here."""
    return as_json(None)
