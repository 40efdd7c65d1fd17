"""The process that a queue lives in: it closes the queue before Python ends, and its forks must not use it."""

import atexit
import os
import weakref
from collections.abc import Callable

from ssd1b_jax.errors import DeviceError

_lifetimes: "weakref.WeakSet[Lifetime]" = weakref.WeakSet()


class Lifetime:
    """Calls `close`, a method, when Python ends. Does not keep its object alive."""

    def __init__(self, close: Callable[[], None]):
        self._close = weakref.WeakMethod(close)
        self._process = os.getpid()
        _lifetimes.add(self)

    @property
    def is_here(self) -> bool:
        """Whether this is the process that it began in."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise DeviceError in a process that was forked: locks and threads of JAX are not copied."""
        if not self.is_here:
            raise DeviceError(
                "this process was forked from one that uses the pipeline, and JAX does not work after a fork: "
                'start processes by multiprocessing.get_context("spawn"), and load a pipeline in each'
            )

    def end(self) -> None:
        close = self._close()
        if close is not None and self.is_here:
            close()


@atexit.register
def _end_all() -> None:
    """A thread still in XLA when Python ends would abort it."""
    for lifetime in [*_lifetimes]:
        lifetime.end()
