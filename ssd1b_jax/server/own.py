"""Our own way to ask: a job is submitted, watched and cancelled, and its pictures are fetched.

    POST   /jobs                 settings as JSON, pictures as base64; answers with the job at once; without an image
                                 a picture is made from text alone
    GET    /jobs/ID              state, position, expected seconds, progress, error, pictures
    GET    /jobs/ID/events       the same as server-sent events, with previews, until the job ends
    DELETE /jobs/ID              cancels
    GET    /jobs/ID/pictures/N   a picture's file, with its record
    POST   /pictures             the same settings; answers with the picture's file, when it is done; a caller that
                                 leaves cancels it
    POST   /replay               a picture's file as a form; whether it can be made again to the bit

A job that has ended is kept for `Limits.kept_seconds`. Who knows its id, which can't be guessed, may see it.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import settings
from ssd1b_jax.server import answers, fields, replaying, schema
from ssd1b_jax.server.bodies import MAX_QUOTE, BodyError, only
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.service import Service

PRIORITIES = ("interactive", "batch")
TAKEN = schema.taken()
KNOWN = {name: setting for name, setting in settings.SPELLINGS.items() if setting in TAKEN}


def error(status: int, sentence: str, field: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error in our own form."""
    return answers.as_json({"error": {"message": sentence, "field": field, "status": status}}, status, headers)


def routes(service: Service) -> list[Route]:
    own = Own(service)
    return [
        Route("/jobs", own.submit, methods=["POST"]),
        Route("/jobs/{id}", own.show, methods=["GET"]),
        Route("/jobs/{id}", own.cancel, methods=["DELETE"]),
        Route("/jobs/{id}/events", own.events),
        Route("/jobs/{id}/pictures/{index:int}", own.picture, name="picture"),
        Route("/pictures", own.made, methods=["POST"]),
        Route("/replay", own.replay, methods=["POST"]),
    ]


class Own:
    """The routes, for one server."""

    def __init__(self, service: Service):
        self._service = service

    async def submit(self, request: HTTPRequest) -> Response:
        job = await self._start(request)
        self._service.kept.add(job)
        return answers.as_json(describe(request, job), 202, {"location": f"/jobs/{job.id}"})

    async def made(self, request: HTTPRequest) -> Response:
        job = await self._start(request, most=1)
        pictures = await job.answer(request)
        return answers.as_picture(pictures[0], answers.headers_of(pictures))

    async def _start(self, request: HTTPRequest, most: int | None = None) -> Job:
        """The job of the settings in a body, of at most so many pictures. Raises as `Service.start`."""
        sent = await self._service.bodies.read_json(request, dict[str, Any])
        priority = sent.pop("priority", "interactive")
        if priority not in PRIORITIES:
            raise BodyError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}", field="priority")
        for name in sent:
            _check_name(name)
        asked = fields.read(sent, KNOWN, fields.FROM_TEXT)
        if most is not None and asked.count > most:
            name = asked.name("num_images")
            raise BodyError(f"{name} must be at most {most} here, got {asked.count}: use /jobs", field=name)
        sizing = await self._service.in_thread(lambda: self._service.exact_size(asked))
        return await self._service.start(request, asked, sizing, priority)

    async def show(self, request: HTTPRequest) -> Response:
        return answers.as_json(describe(request, self._job(request)))

    async def cancel(self, request: HTTPRequest) -> Response:
        job = self._job(request)
        job.cancel()
        return answers.as_json(describe(request, job))

    async def events(self, request: HTTPRequest) -> Response:
        return answers.as_events(self._events(request, self._job(request)))

    async def picture(self, request: HTTPRequest) -> Response:
        picture = self._service.kept.picture(request.path_params["id"], request.path_params["index"])
        return answers.as_picture(picture, answers.headers_of([picture]))

    async def replay(self, request: HTTPRequest) -> Response:
        form = await self._service.bodies.read_form(request)
        files = {name: only(form, name) for name in ("file", "image", "mask")}
        for name, data in files.items():
            if data is not None and not isinstance(data, bytes):
                raise BodyError(f"{name} must be a picture's file", field=name)
        if files["file"] is None:
            raise BodyError("file must be given: a picture that this program wrote", field="file")
        recipe = await self._service.in_thread(lambda: replaying.read(self._service, **files))
        asked = replaying.fields_of(recipe)
        job = await self._service.start(request, asked, self._service.exact_size(asked))
        (picture,) = await job.answer(request)
        return answers.as_json(replaying.compare(recipe, picture))

    async def _events(self, request: HTTPRequest, job: Job) -> AsyncIterator[tuple[str, Any]]:
        """`progress` whenever something has changed, `preview` for each new one, then the state that it ended in."""
        last, seen = None, 0
        async for _ in job.looks():
            now = describe(request, job)
            if now != last:
                yield "progress", now
                last = now
            if seen != (calls := job.calls_done) and (pixels := job.preview) is not None:
                seen = calls
                file = await self._service.preview(pixels, self._service.sizes[0])
                yield "preview", {"index": len(job.pictures), "image": f"data:{file.media_type};base64,{file.base64}"}
        yield job.state, describe(request, job)

    def _job(self, request: HTTPRequest) -> Job:
        return self._service.kept.job(request.path_params["id"])


def describe(request: HTTPRequest, job: Job) -> dict[str, Any]:
    """A job, as our routes answer with it. A seed has up to 64 bits, which JavaScript's numbers do not hold: text."""
    pictures = [
        {
            "url": request.url_for("picture", id=job.id, index=index).path,
            "seed": str(picture.seed),
            "width": picture.size[0],
            "height": picture.size[1],
            "notes": picture.notes,
            "seconds": round(picture.seconds, 3),
        }
        for index, picture in enumerate(job.pictures)
    ]
    return {
        "id": job.id,
        "state": job.state,
        "position": job.position,
        "expected_seconds": job.expected_seconds,
        "calls_done": job.calls_done,
        "calls": job.calls,
        "error": job.error.sentence if job.error else None,
        "field": answers.field_of(job.error) if job.error else None,
        "pictures": pictures,
    }


def _check_name(name: str) -> None:
    """Raise BodyError for a name that is no setting's."""
    if name.lower() not in KNOWN:
        near = settings.meant(name[:MAX_QUOTE], TAKEN)
        hint = f"did you mean {near}?" if near else "see /openapi.json"
        raise BodyError(f"no setting is named {name[:MAX_QUOTE]!r}: {hint}", field=name[:MAX_QUOTE])
