"""A picture that was asked for: its future, seen from any thread or from asyncio."""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ssd1b_jax.errors import CancelledError
from ssd1b_jax.request import Request
from ssd1b_jax.result import Result

if TYPE_CHECKING:
    from ssd1b_jax.engine.queue import Queue
    from ssd1b_jax.engine.slots import Entry


@dataclass(frozen=True)
class TicketProgress:
    """Model calls of one picture, done and in all."""

    calls_done: int
    calls: int


class Ticket:
    """A picture that was submitted. Everything here may be called from any thread."""

    def __init__(self, queue: "Queue", entry: "Entry", future: "Future[Result]"):
        self._queue = queue
        self._entry = entry
        self._future = future

    @property
    def request(self) -> Request:
        """The request, resolved: with its seed, also where that was drawn."""
        return self._entry.job.request

    def result(self, timeout: float | int | None = None) -> Result:
        """Wait for the picture, at most `timeout` seconds: TimeoutError. Raises what the picture failed with.

        Raises RequestError in a callback of a ticket, where a wait would have no end, and DeviceError after a fork.
        """
        self._check_wait()
        return self._future.result(timeout)

    def exception(self, timeout: float | int | None = None) -> BaseException | None:
        """Wait as `result` does, and return what the picture failed with, or None."""
        self._check_wait()
        return self._future.exception(timeout)

    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._future.done()

    def cancelled(self) -> bool:
        """Whether the picture was cancelled before it was done."""
        return self.done() and isinstance(self._future.exception(), CancelledError)

    def cancel(self) -> bool:
        """Give the picture up; its row is free at the next tick. False where it is done already."""
        return self._queue.cancel(self._entry)

    def add_done_callback(self, callback: Callable[["Ticket"], Any]) -> None:
        """Call `callback(ticket)` once the picture is done or has failed; at once where it is.

        It runs in a thread of the queue, so it should be quick. What it raises is logged.
        """
        self._future.add_done_callback(lambda _: callback(self))

    @property
    def progress(self) -> TicketProgress:
        """How far the picture is."""
        return TicketProgress(self._entry.seen_calls, self._entry.job.calls)

    @property
    def preview(self) -> np.ndarray | None:
        """The result that the last model call predicts, one uint8 pixel a latent; None where there is none.

        There is none before the first call, after the last, and for an autoencoder that `previews` has no map of.
        """
        return self._queue.preview(self._entry)

    @property
    def position(self) -> int:
        """How many pictures the queue would rather make; 0 for the first, and for one that is done."""
        return self._queue.position(self._entry)

    @property
    def expected_seconds(self) -> float:
        """Seconds until the picture is done, by the work in front of it and the speed measured so far."""
        return self._queue.expected_seconds(self._entry)

    def _check_wait(self) -> None:
        if not self.done():
            self._queue.check_wait()

    def __await__(self) -> Generator[Any, None, Result]:
        # Shielded: a task that is cancelled does not cancel the picture, which `cancel` does.
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    def __repr__(self) -> str:
        progress = self.progress
        state = "done" if self.done() else f"{progress.calls_done} of {progress.calls} calls"
        return f"Ticket({state}, seed {self.request.seed})"
