"""`generate` and `stream`: many requests through the queue, a bounded window of them at a time."""

import queue as queues
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ssd1b_jax.config import VAEConfig
from ssd1b_jax.engine.jobs import Job, Planner
from ssd1b_jax.engine.pictures import InputPictures
from ssd1b_jax.engine.queue import Queue
from ssd1b_jax.engine.slots import Entry, look
from ssd1b_jax.engine.ticket import Ticket
from ssd1b_jax.errors import Error, RequestError, WeightsError
from ssd1b_jax.request import Request
from ssd1b_jax.result import Result

WINDOW = 64  # requests at least that are taken, and whose results are not; so bounded is the memory they need
MOST_NAMED = 5  # failures in one message


@dataclass(frozen=True)
class Progress:
    """Model calls and pictures, done and in all, of the requests that were taken so far."""

    calls_done: int
    calls: int
    pictures_done: int
    pictures: int
    _denoised: Mapping[int, tuple] = field(default_factory=dict, repr=False, compare=False)
    _vae: VAEConfig | None = field(default=None, repr=False, compare=False)

    @property
    def previews(self) -> dict[int, np.ndarray]:
        """The results that the last model calls predict, by index among the requests: uint8, one pixel a latent.

        Empty for an autoencoder that `previews` has no map of. Costs nothing unless asked for.
        """
        seen = {index: look(place, self._vae) for index, place in self._denoised.items()}
        return {index: pixels for index, pixels in seen.items() if pixels is not None}


OnProgress = Callable[[Progress], None]
Outcome = Result | Error


class Stream:
    """One caller's requests, on their way through the queue."""

    def __init__(
        self,
        queue: Queue,
        planner: Planner,
        requests: Iterable[Request],
        on_progress: OnProgress | None,
        row: int | None = None,
    ):
        self._queue = queue
        self._planner = planner
        self._requests = enumerate(requests)
        self._total = len(requests) if hasattr(requests, "__len__") else None
        self._on_progress = on_progress
        self._row = row
        self._pictures = InputPictures(planner.config.vae.factor)
        self._events: queues.SimpleQueue = queues.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}  # of pictures that are not done
        self._calls: dict[int, int] = {}  # of these
        self._taken = self._calls_taken = self._calls_finished = self._pictures_done = 0
        self._window = max(WINDOW, 4 * queue.ticks.capacity)

    def outcomes(self, raise_first: bool) -> Iterator[tuple[int, Outcome]]:
        """Each request's result or error, as soon as it is there.

        With `raise_first` an error of the requests that are looked at before anything runs is raised.
        """
        self._queue.check_wait()
        failed: list[tuple[int, Error]] = []
        try:
            waiting = [*self._take(self._window, failed)]
            if failed and raise_first:
                raise failed[0][1]
            while True:
                for index, job in waiting:
                    self._submit(index, job, failed)
                yield from failed
                self._pictures_done += len(failed)
                failed.clear()
                if not self._tickets:
                    waiting = [*self._take(self._window, failed)]
                    if not (waiting or failed):
                        return
                    continue
                event = self._events.get()
                if event[0] == "done":
                    yield self._finished(*event[1:])
                else:
                    self._advanced(event[1])
                waiting = [*self._take(self._window - len(self._tickets), failed)]
        finally:
            self._abandon()

    def _take(self, count: int, failed: list[tuple[int, Error]]) -> Iterator[tuple[int, Job]]:
        """Plan the next requests. What fails is listed."""
        for _ in range(count):
            index, request = next(self._requests, (None, None))
            if index is None:
                return
            self._taken += 1
            try:
                job = self._planner.take(request)
            except Error as error:
                failed.append((index, error))
                continue
            self._calls_taken += job.calls
            yield index, job

    def _submit(self, index: int, job: Job, failed: list[tuple[int, Error]]) -> None:
        watch = None if self._on_progress is None else self._watch
        about = dict(priority="batch" if self._total != 1 else "interactive", caller=self, row=self._row)
        try:
            ticket = self._queue.submit(
                job, **about, pictures=self._pictures, index=index, watch=watch, done=self._done
            )
        except (RequestError, WeightsError) as error:  # a LoRA may be read only now
            failed.append((index, error))
            return
        self._tickets[index] = ticket
        self._calls[index] = 0

    def _done(self, index: int, future: Future) -> None:
        self._events.put(("done", index, future))

    def _watch(self, entries: list[Entry]) -> None:
        self._events.put(("calls", [(entry.index, entry.seen_calls, entry.denoised) for entry in entries]))

    def _finished(self, index: int, future: Future) -> tuple[int, Outcome]:
        ticket = self._tickets.pop(index)
        self._calls.pop(index)
        self._calls_finished += ticket.progress.calls
        self._pictures_done += 1
        error = future.exception()
        if error is not None and not isinstance(error, Error):
            raise error
        if self._on_progress is not None:
            self._on_progress(self._progress({}))
        return index, future.result() if error is None else error

    def _advanced(self, calls: list[tuple[int, int, tuple]]) -> None:
        denoised = {}
        for index, done, place in calls:
            if index in self._calls:
                self._calls[index] = done
                denoised[index] = place
        if denoised:
            self._on_progress(self._progress(denoised))

    def _progress(self, denoised: Mapping[int, tuple]) -> Progress:
        calls_done = self._calls_finished + sum(self._calls.values())
        pictures = self._taken if self._total is None else self._total
        vae = self._planner.config.vae
        return Progress(calls_done, self._calls_taken, self._pictures_done, pictures, denoised, vae)

    def _abandon(self) -> None:
        """Cancel what is not done, and wait for that."""
        for ticket in self._tickets.values():
            ticket.cancel()
        if self._queue.can_wait:  # a generator may be collected in any thread, and after a fork
            for ticket in self._tickets.values():
                ticket.exception()


def failure(failures: list[tuple[int, Error]]) -> Error:
    """One error for all: itself where there is one, else one that names the first few."""
    if len(failures) == 1:
        return failures[0][1]
    first = failures[0][1]
    kind = type(first) if all(type(error) is type(first) for _, error in failures) else Error
    named = [f"picture {index + 1}: {error}" for index, error in failures[:MOST_NAMED]]
    if len(failures) > MOST_NAMED:
        named.append(f"and {len(failures) - MOST_NAMED} more")
    return kind("; ".join(named))
