"""Work in a thread of its own: the host prepares and saves while devices run, and compiles while weights are read."""

import atexit
import contextvars
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

Item = TypeVar("Item")
_END = object()
_PATIENCE = 0.1  # seconds between looks at whether anyone still wants more


def ahead(items: Generator[Item, None, None], depth: int) -> Iterator[Item]:
    """Run a generator in a thread of its own, at most `depth` items ahead of whoever takes them; 0 is no limit.

    An exception arrives in its turn. Closing this iterator lets the generator finish the item it is
    at, closes it, and waits for that.
    """
    ready: queue.Queue = queue.Queue(depth)
    unwanted, ended = threading.Event(), threading.Event()

    def offer(item) -> bool:
        while not unwanted.is_set():
            try:
                ready.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            with closing(items):
                for item in items:
                    if not offer((item, None)):
                        return
            offer((_END, None))
        except BaseException as error:  # whatever it is, it is the taker's
            offer((_END, error))
        finally:
            ended.set()

    def stop() -> None:
        unwanted.set()
        ended.wait()  # a join that is interrupted, by Ctrl-C again, would take the thread for ended
        thread.join()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="ahead", daemon=True)
    thread.start()
    atexit.register(stop)  # a thread still in XLA when Python ends would abort it
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop()
        atexit.unregister(stop)


@contextmanager
def in_background(steps: Iterator) -> Iterator[None]:
    """Go through `steps` in a thread of its own while the block runs, and wait for the last of them at its end.

    What they raise is raised there. If the block fails, no step follows the one that is under way.
    """

    def begun() -> Generator[None, None, None]:
        yield
        yield from steps

    running = ahead(begun(), 0)
    with closing(running):
        next(running)
        yield
        for _ in running:
            pass
