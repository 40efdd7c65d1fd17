"""Threads that encode and save pictures while others are made."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

AHEAD = 2  # pictures that wait, for each thread: so bounded is the memory they need


class Savers:
    """Runs tasks in threads. What one of them raises is raised by the next call here."""

    def __init__(self, threads: int | None = None):
        count = threads or min(8, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="ssd1b-saver")
        self._room = threading.Semaphore(AHEAD * count)
        self._failure: BaseException | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Have a task done; waits while too many do."""
        self._room.acquire()
        self.check()
        self._pool.submit(task).add_done_callback(self._done)

    def _done(self, future: Future) -> None:
        self._failure = self._failure or future.exception()
        self._room.release()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> "Savers":
        return self

    def __exit__(self, kind, *exception) -> None:
        self._pool.shutdown()
        if kind is None:
            self.check()
