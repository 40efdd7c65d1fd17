"""The page: its files, what its controls are made from, and the settings of a picture that comes back.

    GET   /                the page
    GET   /page/PATH       its styles, modules, strings and example drawings
    GET   /settings        the settings as JSON Schema, and what this server has: model, sizes, samplers, LoRAs
    POST  /records         a picture's file as a form; the settings that it was made with

The files are read once. A browser keeps them, and asks by their ETag whether they are still the same.
"""

import functools
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import __version__
from ssd1b_jax.request import FAST
from ssd1b_jax.samplers import SAMPLERS
from ssd1b_jax.server import answers, recalling, schema
from ssd1b_jax.server.bodies import BodyError, only
from ssd1b_jax.server.service import Service

PACKAGE = resources.files("ssd1b_jax")
FILES = PACKAGE / "server" / "page"
EXAMPLES = PACKAGE / "embedded" / "doodles"
FRAMES = "http://localhost:* http://127.0.0.1:* https://colab.research.google.com https://*.googleusercontent.com"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",  # pictures that were fetched, and previews
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": f"'self' {FRAMES}",  # notebooks show the page in a frame
}
DOCUMENT = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "permissions-policy": "camera=(self)",
    "referrer-policy": "no-referrer",
}
HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # kept, and asked for by its ETag
    "vary": "accept-encoding",
}
PACKED = ("text/html", "text/css", "text/javascript", "image/svg+xml")


@dataclass(frozen=True)
class File:
    """A file of the page; `packed` is it in gzip, empty for what is packed already."""

    data: bytes
    packed: bytes
    media_type: str
    etag: str


@functools.cache
def files() -> dict[str, File]:
    """All files by their paths."""
    return {path: as_file(path, file.read_bytes()) for path, file in (*_walk(FILES), *_walk(EXAMPLES, "examples/"))}


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    walked = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        path = f"{prefix}{file.name}"
        walked += _walk(file, f"{path}/") if file.is_dir() else [(path, file)]
    return walked


def as_file(path: str, data: bytes) -> File:
    """What is served of this data under a path of this name."""
    media_type = "text/javascript" if path.endswith(".js") else mimetypes.guess_type(path)[0]
    packed = gzip.compress(data, mtime=0) if media_type in PACKED else b""
    return File(data, packed, media_type or "application/octet-stream", f'"{hashlib.sha256(data).hexdigest()[:16]}"')


def routes(service: Service) -> list[Route]:
    page = Page(service)
    return [
        Route("/", page.index),
        Route("/page/{path:path}", page.file),
        Route("/settings", page.settings),
        Route("/records", page.records, methods=["POST"]),
    ]


class Page:
    """The routes, for one server."""

    def __init__(self, service: Service):
        self._service = service

    async def index(self, request: HTTPRequest) -> Response:
        return answer(request, files()["index.html"])

    async def file(self, request: HTTPRequest) -> Response:
        file = files().get(request.path_params["path"])
        if file is None:
            raise HTTPException(404, "the page has no such file")
        return answer(request, file)

    async def settings(self, request: HTTPRequest) -> Response:
        service, options = self._service, self._service.options
        described = {
            "version": __version__,
            "model": service.model,
            "state": service.state,
            "sizes": service.sizes,
            "any_size": options.any_size,
            "pictures": options.limits.most_pictures,
            "schema": schema.describe(service),
            "samplers": {name: f"{row.label} {row.schedule}".strip() for name, row in SAMPLERS.items()},
            "loras": [name for name in service.pipe.loras if name != FAST] if service.pipe else [],
            "examples": [path for path in files() if path.startswith("examples/")],
        }
        return answers.as_json(described, headers={"cache-control": "no-store"})

    async def records(self, request: HTTPRequest) -> Response:
        form = await self._service.bodies.read_form(request)
        data = only(form, "file")
        if not isinstance(data, bytes):
            raise BodyError("file must be a picture's file", field="file")
        return answers.as_json(await self._service.in_thread(lambda: recalling.read(self._service, data)))


def answer(request: HTTPRequest, file: File) -> Response:
    """A file, or 304 to a browser that has it."""
    headers = HEADERS | {"etag": file.etag} | (DOCUMENT if file.media_type == "text/html" else {})
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if file.packed and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers=headers | {"content-encoding": "gzip"}, media_type=file.media_type)
    return Response(file.data, headers=headers, media_type=file.media_type)
