"""Tasks in a thread of their own, one after another."""

import contextvars
import threading
from collections import deque
from collections.abc import Callable


class OwnThread(threading.Thread):
    """A thread of some owner's own, in the context that it is begun in. Does not keep Python from ending."""

    def __init__(self, owner: object, name: str, run: Callable[[], None]):
        super().__init__(target=contextvars.copy_context().run, args=(run,), name=name, daemon=True)
        self.owner = owner


def is_own(owner: object) -> bool:
    """Whether the caller is in a thread of this owner's."""
    return getattr(threading.current_thread(), "owner", None) is owner


class Worker:
    """Runs tasks in order. They must not raise.

    The thread begins with the first task, and waits for others until `end`: to wake one costs less than to begin one.
    """

    def __init__(self, owner: object, name: str):
        self._owner = owner
        self._name = name
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    def submit(self, task: Callable[[], None]) -> None:
        with self._changed:
            self._tasks.append(task)
            self._is_ending = False
            if self._thread is None:
                self._thread = OwnThread(self._owner, self._name, self._run)
                self._thread.start()
            else:
                self._changed.notify()

    def end(self) -> None:
        """Let the thread end once nothing is left to do; does not wait for it."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()

    def join(self) -> None:
        """Wait until nothing is left to do, and the thread has ended."""
        self.end()
        while (thread := self._thread) is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._tasks:
                    if self._is_ending:
                        self._thread = None
                        return
                    self._changed.wait()
                task = self._tasks.popleft()
            task()
            del task  # or it would be kept while the next one is awaited
