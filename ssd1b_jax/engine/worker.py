"""Tasks in a thread of their own, one after another. The thread ends when there is nothing left to do."""

import contextvars
import threading
from collections import deque
from collections.abc import Callable


class Worker:
    """Runs tasks in order. They must not raise."""

    def __init__(self, name: str):
        self._name = name
        self._tasks: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._tasks.append(task)
            if self._thread is None:
                context = contextvars.copy_context()
                self._thread = threading.Thread(target=context.run, args=(self._run,), name=self._name, daemon=True)
                self._thread.start()

    def join(self) -> None:
        """Wait until nothing is left to do."""
        while (thread := self._thread) is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self._thread = None
                    return
                task = self._tasks.popleft()
            task()
            del task  # or it would be kept while the next one is awaited
