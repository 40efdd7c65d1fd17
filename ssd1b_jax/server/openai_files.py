"""OpenAI's files, /v1/files: kept in memory, within limits of number, bytes and time."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax.errors import Full
from ssd1b_jax.server import answers, ids
from ssd1b_jax.server.bodies import BodyError, only
from ssd1b_jax.server.kept import NotKept
from ssd1b_jax.server.options import Limits
from ssd1b_jax.server.service import Service

PURPOSES = ("batch", "vision", "user_data")
OUTPUT = "batch_output"
RETRY_SECONDS = 60.0


def new_id() -> str:
    return f"file-{ids.new()}"


def is_id(value: Any) -> bool:
    """Whether a value in a request names a file."""
    return isinstance(value, str) and value.startswith("file-")


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that a caller sent, or that a batch wrote."""

    name: str
    purpose: str
    data: bytes = field(repr=False)
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": int(self.created),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class Files:
    """The files of one server. Who knows a file's id, which can't be guessed, may read it; lists are empty."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._files: OrderedDict[str, File] = OrderedDict()
        self._in_memory: WeakValueDictionary[str, File] = WeakValueDictionary()  # batches have files that are gone here
        self._reserved: dict[str, int] = {}  # bytes of files that are being written

    def add(self, file: File) -> File:
        """Keep a file. Raises Full where there is no room for it, and none was reserved."""
        if self._reserved.pop(file.id, None) is None:
            self._check_room(len(file.data), files=1)
        self._files[file.id] = self._in_memory[file.id] = file
        return file

    def reserve(self, id: str) -> None:
        """Reserve a place for a file that is being written. Raises Full."""
        self._check_room(0, files=1)
        self._reserved[id] = 0

    def grow(self, id: str, size: int) -> None:
        """Reserve bytes for a file that has its place. Raises Full."""
        self._check_room(size)
        self._reserved[id] += size

    def release(self, id: str) -> None:
        """Give up what was reserved."""
        self._reserved.pop(id, None)

    def _check_room(self, size: int, files: int = 0) -> None:
        self._expire()
        limits = self._limits
        number = len(self._files) + len(self._reserved) + files
        if number > limits.files or self._bytes + size > limits.files_bytes:
            raise Full("the files that are kept take all the room there is: delete some, or try again", RETRY_SECONDS)

    def get(self, id: str) -> File:
        """Raises NotKept."""
        self._expire()
        if id not in self._files:
            raise NotKept("no such file: it never was, or was sent too long ago")
        return self._files[id]

    def delete(self, id: str) -> None:
        """Raises NotKept."""
        self.get(id)
        del self._files[id]

    @property
    def _bytes(self) -> int:
        return sum(len(file.data) for file in self._in_memory.values()) + sum(self._reserved.values())

    def _expire(self) -> None:
        oldest = time.time() - self._limits.kept_seconds
        for id in [file.id for file in self._files.values() if file.created < oldest]:
            del self._files[id]


def routes(service: Service, files: Files) -> list[Route]:
    of_files = FileRoutes(service, files)
    return [
        Route("/v1/files", of_files.upload, methods=["POST"]),
        Route("/v1/files", answers.no_items, methods=["GET"]),
        Route("/v1/files/{id}", of_files.show, methods=["GET"]),
        Route("/v1/files/{id}", of_files.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/content", of_files.content, methods=["GET"]),
    ]


class FileRoutes:
    """The routes, for one server."""

    def __init__(self, service: Service, files: Files):
        self._service = service
        self._files = files

    async def upload(self, request: HTTPRequest) -> Response:
        form = await self._service.bodies.read_form(request)
        data, purpose = only(form, "file"), only(form, "purpose")
        if not isinstance(data, bytes):
            raise BodyError("file must be a file", field="file")
        if purpose not in PURPOSES:
            shown = purpose[:40] if isinstance(purpose, str) else purpose and "a file"
            raise BodyError(f"purpose must be one of {', '.join(PURPOSES)}, got {shown!r}", field="purpose")
        file = self._files.add(File(name="upload", purpose=purpose, data=data))
        return answers.as_json(file.describe())

    async def show(self, request: HTTPRequest) -> Response:
        return answers.as_json(self._files.get(request.path_params["id"]).describe())

    async def content(self, request: HTTPRequest) -> Response:
        return Response(self._files.get(request.path_params["id"]).data, media_type="application/octet-stream")

    async def delete(self, request: HTTPRequest) -> Response:
        id = request.path_params["id"]
        self._files.delete(id)
        return answers.as_json({"id": id, "object": "file", "deleted": True})
