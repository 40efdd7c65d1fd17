"""One server: its model, its jobs, its limits and its counters. The event loop owns it.

Pictures are checked, planned and written by a few threads of its own; the pipeline's threads make them.
"""

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.requests import Request as HTTPRequest

from ssd1b_jax.errors import DeviceError, Error, Full
from ssd1b_jax.request import PICTURES, Request
from ssd1b_jax.result import Result
from ssd1b_jax.server import pictures, sizes
from ssd1b_jax.server.bodies import Bodies, BodyError, Link, decode_picture
from ssd1b_jax.server.fetching import Fetcher
from ssd1b_jax.server.fields import Fields
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.kept import Kept
from ssd1b_jax.server.metrics import Metrics
from ssd1b_jax.server.options import ServerOptions, Size
from ssd1b_jax.server.pictures import File, Picture, Sizing

if TYPE_CHECKING:
    from ssd1b_jax.pipeline import Pipeline  # imports JAX

Value = TypeVar("Value")
THREADS = 2
MAX_DEVICE_FAILURES = 3  # in a row
START_SECONDS = 5.0  # after which a caller may try again while the model is loaded
CLOSE_SECONDS = 2.0  # for the jobs that are cancelled when the server ends
DEADLINE = "x-deadline-seconds"


class NotReady(Error):
    """A server that loads its model, or is about to stop."""

    http_status = 503
    retry_after = START_SECONDS


class Refused(Error):
    """What the operator's hook does not let through."""


class Service:
    """Takes jobs for callers. `model` is the name or the path that the model was asked for by.

    `pipe` is None while the model is loaded; `is_ready` once the programs of all sizes are compiled. `broken` is set
    when the devices have failed too often.
    """

    def __init__(self, model: str, options: ServerOptions):
        self.model = model
        self.options = options
        self.started = time.time()
        self.pipe: Pipeline | None = None
        self.sizes: tuple[Size, ...] = options.sizes
        self.is_ready = False
        self.is_draining = False
        self.broken = asyncio.Event()
        self.bodies = Bodies(options.limits)
        self.metrics = Metrics()
        self._device_failures = 0
        self.fetcher = Fetcher(options.limits.body_bytes, options.limits.fetch_seconds)
        self._fetching = 0  # addresses
        self._input_bytes = 0  # of jobs that have not ended
        self._running: set[Job] = set()
        self.kept = Kept(options.limits)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ssd1b-server")

    @property
    def state(self) -> str:
        """starting, ready, draining or broken."""
        if self.broken.is_set():
            return "broken"
        if self.is_draining:
            return "draining"
        return "ready" if self.is_ready else "starting"

    def load(self, pipe: "Pipeline") -> None:
        """Take the model; its own size is the one that is made where no others are named."""
        defaults = pipe.config.defaults
        self.pipe = pipe
        self.sizes = self.options.sizes or ((defaults.width, defaults.height),)

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the model is called: its name, its hash, and A1111's title of both."""
        digest = self.loaded().manifest.sha256
        return self.model, f"{self.model} [{digest[:10]}]", digest[:10], digest

    def loaded(self) -> "Pipeline":
        """The pipeline. Raises NotReady while there is none, or when the server is about to stop."""
        if self.state != "ready" or self.pipe is None:
            raise NotReady(f"the server is {self.state}: try again")
        return self.pipe

    def nearest_size(self, width: int | None = None, height: int | None = None) -> Sizing:
        """As `sizes.nearest`, for clients that always send a size; the first size for those that send none."""
        self.loaded()
        if width is None or height is None:
            return Sizing(self.sizes[0], self.sizes[0])
        return Sizing(sizes.nearest(self.sizes, width, height), (width, height))

    def exact_size(self, fields: Fields) -> Sizing:
        """The size that our own routes make; see `sizes.exact`. Raises FieldError or ImageError."""
        size = sizes.exact(fields, self.loaded().config, self.sizes, self.options.any_size)
        return Sizing(size, size)

    async def start(self, request: HTTPRequest, fields: Fields, sizing: Sizing, priority: str = "interactive") -> Job:
        """Submit what a caller asks for: all pictures, or none.

        Raises FieldError or RequestError, `Full` where the queue takes no more, NotReady.
        """
        pipe, limits = self.loaded(), self.options.limits
        fields = await self._with_pictures(fields)
        input_bytes = _bytes_held(fields, sizing)
        if self._input_bytes + input_bytes > limits.bodies_bytes:
            raise Full("the pictures that wait take all the memory there is for them: try again", START_SECONDS)
        about = dict(caller=request.state.caller, priority=priority, deadline=_deadline(request))
        self._input_bytes += input_bytes
        submitting = asyncio.ensure_future(self.in_thread(lambda: self._submit(pipe, fields, sizing, about)))
        try:
            tickets = await asyncio.shield(submitting)
        except BaseException:
            self._input_bytes -= input_bytes
            submitting.add_done_callback(_give_up)
            raise

        async def finish(result: Result) -> Picture:
            return await self.in_thread(lambda: self._write(result, fields, sizing))

        job = Job(tickets, finish, has_previews=self.options.check is None)
        self._running.add(job)
        self.metrics.accepted.inc(job.count)
        job.task.add_done_callback(lambda _: self._ended(job, input_bytes))
        return job

    def _submit(self, pipe: "Pipeline", fields: Fields, sizing: Sizing, about: dict[str, Any]) -> list[Any]:
        limits, tickets = self.options.limits, []
        pictures.check(fields, sizing, limits)
        requests = fields.requests(pipe.config, sizing.computed)
        for request in requests:
            self._check(request, None)
        if pipe.waiting + len(requests) > limits.waiting:
            raise Full(f"{pipe.waiting} pictures wait, at most {limits.waiting} may: try again", pipe.queue.seconds)
        try:
            for index, request in enumerate(requests):
                limit = None if index else limits.waiting_seconds  # its own pictures are not in front of a request
                tickets.append(pipe.submit(request, limit=limit, **about))
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise
        return tickets

    def _check(self, request: Request, pixels: np.ndarray | None) -> None:
        """Ask the operator's hook. Raises Refused."""
        if self.options.check is not None and (sentence := self.options.check(request, pixels)) is not None:
            raise Refused(str(sentence))

    def _write(self, result: Result, fields: Fields, sizing: Sizing) -> Picture:
        self._check(result.request, result.pixels)
        return pictures.write(result, fields.output, sizing, self.options)

    def _ended(self, job: Job, input_bytes: int) -> None:
        self._running.discard(job)
        self._input_bytes -= input_bytes
        self.metrics.count(job)
        if isinstance(job.error, DeviceError):
            self._device_failures += 1
            if self._device_failures >= MAX_DEVICE_FAILURES:
                self.broken.set()
        elif job.pictures:
            self._device_failures = 0

    async def preview(self, pixels: Any, size: Size) -> File:
        """The file of a preview."""
        return await self.in_thread(lambda: pictures.write_preview(pixels, size))

    async def mask(self, data: bytes, name: str, convert: Callable[[bytes], Any]) -> Any:
        """A mask as ours are, from another interface's. Raises FieldError."""

        def converted() -> Any:
            pictures.check_input(data, name, self.options.limits)
            with pictures.naming(name):
                return convert(data)

        return await self.in_thread(converted)

    async def picture(self, text: Any, name: str) -> bytes:
        """A picture's file that was sent in base64, or as an address. Raises BodyError or FieldError."""
        return await self._fetched(decode_picture(text, name))

    async def _fetched(self, picture: Any) -> Any:
        """The file at an address; anything else is given back. Raises BodyError or FieldError."""
        if not isinstance(picture, Link):
            return picture
        name = picture.field
        if not self.options.allow_url:
            raise BodyError(f"{name} must be a picture's file in base64: addresses are not fetched", field=name)
        limits = self.options.limits
        if self._fetching >= limits.fetches:
            raise Full(f"{self._fetching} addresses are being fetched, no more may be: try again", START_SECONDS)
        self._fetching += 1
        try:
            return await asyncio.to_thread(self.fetcher.fetch, picture.url, name)
        finally:
            self._fetching -= 1

    async def _with_pictures(self, fields: Fields) -> Fields:
        """The fields with the files of the addresses among them."""
        links = {name: value for name, value in fields.settings.items() if isinstance(value, Link)}
        if not links:
            return fields
        files = {name: await self._fetched(link) for name, link in links.items()}
        return dataclasses.replace(fields, settings={**fields.settings, **files})

    async def in_thread(self, work: Callable[[], Value]) -> Value:
        """Run work on pictures in one of the server's few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def idle(self) -> None:
        """Return when no job is left."""
        while self._running:
            await asyncio.wait([job.task for job in self._running])

    async def close(self) -> None:
        """Cancel what is left, and wait for its end, which is the next tick's."""
        for job in self._running:
            job.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.idle()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _give_up(submitting: asyncio.Future[list[Any]]) -> None:
    """Cancel the pictures of a caller that was gone when they were submitted."""
    if not submitting.cancelled() and submitting.exception() is None:
        for ticket in submitting.result():
            ticket.cancel()


def _bytes_held(fields: Fields, sizing: Sizing) -> int:
    """What the pictures of a request take in memory while it waits."""
    given = [fields.settings.get(name) for name in PICTURES]
    sizes = [data.nbytes if isinstance(data, np.ndarray) else len(data) for data in given if data is not None]
    return sum(sizes) + (0 if sizing.region is None else sizing.region.bytes_held)


def _deadline(request: HTTPRequest) -> float | None:
    """Seconds that the caller will wait, by a header."""
    text = request.headers.get(DEADLINE)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise BodyError(f"{DEADLINE} must be above 0 and at most 86400, got {text[:40]!r}", field=DEADLINE)
    return seconds
