"""The queue that owns the devices: everything that makes pictures submits them here.

One thread gives the devices their calls, one compiles programs, one reads pictures and draws noise, one makes results
of pixels. They end when no picture is left, and begin again with the next.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax
import numpy as np

from ssd1b_jax.engine import admission, finishing, reading
from ssd1b_jax.engine.finishing import Finishing
from ssd1b_jax.engine.jobs import Job
from ssd1b_jax.engine.lifetime import Lifetime
from ssd1b_jax.engine.pictures import InputPictures
from ssd1b_jax.engine.reading import Reading
from ssd1b_jax.engine.results import Results
from ssd1b_jax.engine.runner import Runner
from ssd1b_jax.engine.scheduler import Scheduler
from ssd1b_jax.engine.slots import Entry, look
from ssd1b_jax.engine.ticket import Ticket
from ssd1b_jax.engine.ticks import Ticks
from ssd1b_jax.engine.worker import OwnThread, is_own
from ssd1b_jax.errors import CancelledError, DeadlineError, DeviceError, RequestError, first_line
from ssd1b_jax.result import Result

ORDER_SECONDS = 0.5  # at most, between looks at how the order has aged
THREAD = "ssd1b-queue"
THREADS = (THREAD, *reading.THREADS, finishing.THREAD)


class Queue:
    """Pictures on their way through the devices of one pipeline. Usable from many threads.

    `clock` gives seconds; deadlines are by it.
    """

    def __init__(self, runner: Runner, results: Results, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.scheduler = Scheduler(runner.devices.batch_size)
        programs, adapters = runner.programs, runner.adapters
        self._reading = Reading(self, programs, adapters, lambda: [*self._entries], self._fail, self._look_again)
        self._finishing = Finishing(self, results, self._settle, self._fail, self._break)
        self.ticks = Ticks(runner, self.scheduler, self._finishing.submit)
        self.host_seconds = 0.0
        self._runner = runner
        self._config = runner.programs.config
        self._entries: dict[Entry, None] = {}  # in order of arrival
        self._order: tuple[Entry, ...] = ()
        self._ordered_at = -float("inf")
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failures: list[tuple[BaseException, Sequence[Entry]]] = []
        self._news = 0  # counts what the queue's thread has to look at
        self._is_closed = False
        self._lifetime = Lifetime(self.close)

    def submit(
        self,
        job: Job,
        *,
        priority: str = "interactive",
        caller: object = None,
        deadline: float | int | None = None,
        limit: float | int | None = None,
        pictures: InputPictures | None = None,
        index: int | None = None,
        row: int | None = None,
        watch: Callable[[list[Entry]], None] | None = None,
        done: Callable[[int, Future], None] | None = None,
    ) -> Ticket:
        """Take a job. `deadline` and `limit` are seconds from now: for the picture, and for all that is in front of it.

        `row` is the row of a batch that the picture has to be made in. Raises RequestError for an unknown LoRA and for
        what `admission.check` refuses, `Full` where the work in front would take longer than `limit`, or the deadline
        can't be met, and DeviceError once closed or in a process that was forked.
        """
        self._lifetime.check()
        width = self._runner.width
        admission.check(priority=priority, caller=caller, row=row, width=width, deadline=deadline, limit=limit)
        self._runner.adapters.check(job.request.loras)
        now = self.clock()
        entry = Entry(
            job=job,
            future=Future(),
            priority=priority,
            caller=caller,
            submitted=now,
            deadline=None if deadline is None else now + deadline,
            index=index,
            row=row,
            pictures=pictures or InputPictures(self._config.vae.factor),
            watch=watch,
        )
        if done is not None:
            entry.future.add_done_callback(lambda future: done(index, future))
        with self._changed:
            if self._is_closed:
                raise DeviceError("the pipeline is closed: load it again")
            self.scheduler.admit([*self._entries], entry, deadline, limit)
            self._entries[entry] = None
            self._tell(is_other_order=True)
            if self._thread is None:
                self._thread = OwnThread(self, THREAD, self._run)
                self._thread.start()
        return Ticket(self, entry, entry.future)

    def cancel(self, entry: Entry) -> bool:
        """Give a picture up. False where it is done, and in a process that was forked."""
        if not self._lifetime.is_here:
            return False
        with self._changed:
            if entry not in self._entries:
                return False
            entry.is_cancelled = True
            self._tell()
        return True

    def preview(self, entry: Entry) -> np.ndarray | None:
        """What the last call of a picture predicts; see `previews.preview`."""
        place = entry.denoised
        if place is None or entry.future.done():
            return None
        return look(place, self._config.vae)

    def position(self, entry: Entry) -> int:
        """How many pictures come before it."""
        order = self._ranked()
        return order.index(entry) if entry in order else 0

    def expected_seconds(self, entry: Entry) -> float:
        """Seconds until it is done; 0 where it is."""
        order = self._ranked()
        return self.scheduler.expected(order, entry) if entry in order else 0.0

    @property
    def can_wait(self) -> bool:
        """Whether a wait for a picture has an end: not in a thread of this queue's own, nor in a forked process."""
        return self._lifetime.is_here and not is_own(self)

    def check_wait(self) -> None:
        """Raise where a wait for a picture would have no end: see `can_wait`."""
        self._lifetime.check()
        if not self.can_wait:
            raise RequestError(
                "a callback of a ticket must not wait for pictures, which its own thread makes: "
                "submit them there, and wait in another thread"
            )

    @property
    def waiting(self) -> int:
        """Pictures that are not done."""
        return len(self._entries)

    @property
    def seconds(self) -> float:
        """How long the pictures that are not done will take."""
        with self._changed:
            return self.scheduler.seconds([*self._entries])

    def close(self, drain: bool = False) -> None:
        """Take no more pictures; finish those that were taken, or cancel them. Returns when no thread is left."""
        if not self._lifetime.is_here:  # locks that were taken when it was forked stay so
            return
        with self._changed:
            self._is_closed = True
            if not drain:
                for entry in self._entries:
                    entry.is_cancelled = True
            self._tell()
        self.settle()

    def settle(self) -> None:
        """Wait until the threads have ended, which they do when nothing is left to do."""
        if self._lifetime.is_here:
            if (thread := self._thread) is not None:
                thread.join()
            self._reading.join()
            self._finishing.join()

    def _ranked(self) -> tuple[Entry, ...]:
        """All that is not done, in order."""
        with self._changed:
            now = self.clock()
            if now - self._ordered_at > ORDER_SECONDS:
                self._order, self._ordered_at = tuple(self.scheduler.order([*self._entries], now)), now
            return self._order

    # In the queue's thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # a bug: nobody shall wait for ever
            self._abandon(error)
        self._reading.end()
        self._finishing.end()

    def _turn(self) -> bool:
        """Look for news, then give the devices work. False when nothing is left to do."""
        news = self._news
        self._drop_unwanted()
        with self._changed:
            failures, self._failures = self._failures, []
        for failure in failures:
            self._recover(*failure)
        with self._changed:
            if not self._entries and not self.ticks.flights:
                self.ticks.clear()
                self._thread = None
                return False
        began = time.thread_time()
        order = self._ranked()
        self._reading.go_on(order)
        try:
            went_on = self.ticks.step(order)
        except jax.errors.JaxRuntimeError as error:
            self._recover(error)
            went_on = True
        self.host_seconds += time.thread_time() - began
        if not went_on:
            with self._changed:
                if self._news == news:
                    self._changed.wait(ORDER_SECONDS)
        return True

    def _drop_unwanted(self) -> None:
        """Fail the pictures that were cancelled, or whose deadline has passed, and free their rows."""
        now = self.clock()
        for entry in [*self._entries]:
            if entry.is_cancelled:
                self._fail(entry, CancelledError("the picture was cancelled"))
            elif entry.deadline is not None and now > entry.deadline:
                self._fail(entry, DeadlineError("the picture was not done by its deadline"))
            else:
                continue
            self.ticks.drop(entry)

    def _recover(self, error: BaseException, others: Sequence[Entry] = ()) -> None:
        """A device failed: make its pictures from their requests once more; those that fail again have failed."""
        for entry in (*self.ticks.clear(), *others):
            if entry.is_retried:
                self._fail(entry, DeviceError(f"the device failed twice: {first_line(error)}"))
            else:
                entry.restart()
                entry.is_retried = True

    def _abandon(self, error: BaseException) -> None:
        with self._changed:
            entries = [*self._entries]
            self.ticks.clear()
            self._thread = None
        for entry in entries:
            self._fail(entry, error)

    # In the other threads

    def _break(self, error: BaseException, entries: Sequence[Entry]) -> None:
        """Take note that a device failed; the queue's thread begins its pictures again, and these, which left it."""
        with self._changed:
            self._failures.append((error, entries))
            self._tell()

    def _look_again(self) -> None:
        with self._changed:
            self._tell()

    def _settle(self, entry: Entry, result: Result) -> None:
        if self._forget(entry):
            self.scheduler.finished(entry)
            entry.release()
            entry.future.set_result(result)

    def _fail(self, entry: Entry, error: BaseException) -> None:
        if self._forget(entry):
            entry.release()
            entry.future.set_exception(error)

    def _forget(self, entry: Entry) -> bool:
        """Take an entry off the list; False where someone else has done it."""
        with self._changed:
            is_here = entry in self._entries
            if is_here:
                del self._entries[entry]
                entry.is_done = True
                self._tell(is_other_order=True)
        return is_here

    def _tell(self, is_other_order: bool = False) -> None:
        """Have the queue's thread look at what has changed; the lock is taken."""
        self._news += 1
        if is_other_order:
            self._ordered_at = -float("inf")
        self._changed.notify_all()
