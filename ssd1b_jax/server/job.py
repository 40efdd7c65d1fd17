"""A job: the pictures of one HTTP request, on their way from the queue to files."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request as HTTPRequest

from ssd1b_jax.errors import CancelledError, DeviceError, Error, first_line
from ssd1b_jax.result import Result
from ssd1b_jax.server import ids
from ssd1b_jax.server.bodies import Gone
from ssd1b_jax.server.pictures import Picture

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1  # between looks at how far a job is


class Crash(Error):
    """A bug of ours; the log has its traceback."""

    http_status = 500


class Job:
    """Tickets that were submitted together. The event loop owns a job; it ends by itself, or by `cancel`.

    `finish` makes the picture of a result. `ended` is a monotonic time, None until then. Without `has_previews` nobody
    sees a picture before it is finished.
    """

    def __init__(
        self, tickets: Sequence[Any], finish: Callable[[Result], Awaitable[Picture]], *, has_previews: bool = True
    ):
        self.id = ids.new()
        self.count = len(tickets)
        self.pictures: list[Picture] = []
        self.error: Error | None = None
        self.ended: float | None = None
        self.has_previews = has_previews
        self.calls = sum(ticket.progress.calls for ticket in tickets)
        self._calls_done = 0
        self._tickets = list(tickets)
        self._finish = finish
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            for ticket in self._tickets:
                self.pictures.append(await self._finish(await ticket))
        except Error as error:
            self.error = _bare(error)
        except Exception as error:
            log.error("job %s failed", self.id, exc_info=error)
            self.error = _readable(error)
        finally:
            self.cancel()
            self._release()
            self.ended = time.monotonic()

    def _release(self) -> None:
        """Let go of all that only an unfinished job needs; a job may be kept for long."""
        self._calls_done = self.calls_done
        self._tickets = []
        del self._finish

    def cancel(self) -> None:
        """Give up the pictures that are not done; their rows are free at the next tick."""
        for ticket in self._tickets:
            ticket.cancel()

    async def answer(self, request: HTTPRequest) -> list[Picture]:
        """All pictures. Raises what the first one failed with, and `Gone` where the caller leaves; then all stop."""
        left = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((self.task, left), return_when=asyncio.FIRST_COMPLETED)
            if self.ended is None:
                raise Gone("the caller has closed the connection")
            if self.error is not None:
                raise self.error
            return self.pictures
        finally:
            left.cancel()
            self.cancel()

    @property
    def state(self) -> str:
        """waiting, running, done, failed or cancelled."""
        if self.ended is None:
            return "running" if self.calls_done else "waiting"
        if isinstance(self.error, CancelledError):
            return "cancelled"
        return "failed" if self.error else "done"

    @property
    def calls_done(self) -> int:
        """Of the model, of `calls`."""
        return self._calls_done + sum(ticket.progress.calls_done for ticket in self._tickets)

    @property
    def position(self) -> int | None:
        """How many pictures come before its next one; None once it has ended."""
        return min((ticket.position for ticket in self._tickets if not ticket.done()), default=None)

    @property
    def expected_seconds(self) -> float:
        """Until the last picture is done, by the speed measured so far."""
        return round(max((ticket.expected_seconds for ticket in self._tickets), default=0.0), 2)

    @property
    def seconds(self) -> float:
        """Of computing, of the pictures that are done."""
        return round(sum((picture.seconds for picture in self.pictures), 0.0), 3)

    @property
    def preview(self) -> np.ndarray | None:
        """What the next picture is expected to become, one pixel a latent, if that is known and may be seen."""
        if not self.has_previews:
            return None
        shown = (ticket.preview for ticket in self._tickets if not ticket.done())
        return next((pixels for pixels in shown if pixels is not None), None)

    async def looks(self) -> AsyncIterator[None]:
        """Yield now and then until the job has ended."""
        while self.ended is None:
            yield
            await asyncio.wait((self.task,), timeout=LOOK_SECONDS)


async def _disconnected(request: HTTPRequest) -> None:
    """Return when the caller closes the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _bare(error: Error) -> Error:
    """The error without the frames that it came through, which would keep the inputs in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _readable(error: Exception) -> Error:
    if type(error).__name__ == "JaxRuntimeError":  # JAX is not imported here
        return DeviceError(f"the device failed: {first_line(error)}")
    return Crash("the server has failed: its log tells why")
