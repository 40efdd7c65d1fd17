"""Results of the pixels that the devices have made, in a thread of its own."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from ssd1b_jax.engine.results import Results
from ssd1b_jax.engine.slots import Entry
from ssd1b_jax.engine.worker import Worker
from ssd1b_jax.result import Result

THREAD = "ssd1b-results"


class Finishing:
    """Gives `settle` each result, `fail` the error of a picture that has none, and `broken` that of a device.

    `owner` owns the thread.
    """

    def __init__(
        self,
        owner: object,
        results: Results,
        settle: Callable[[Entry, Result], None],
        fail: Callable[[Entry, BaseException], None],
        broken: Callable[[BaseException, Sequence[Entry]], None],
    ):
        self._results = results
        self._settle, self._fail, self._broken = settle, fail, broken
        self._worker = Worker(owner, THREAD)

    def submit(self, pixels, places: Sequence[tuple[Entry, int, int]]) -> None:
        """Take pixels, which may still be on the devices, and each picture's device and row there."""
        self._worker.submit(lambda: self._finish(pixels, places))

    def end(self) -> None:
        """Let the thread end once nothing is left to do."""
        self._worker.end()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._worker.join()

    def _finish(self, pixels, places: Sequence[tuple[Entry, int, int]]) -> None:
        try:
            host = np.asarray(pixels)
            for entry, device, row in places:
                if not entry.is_done:
                    try:
                        self._settle(entry, self._results.result(entry, host[device, row].copy()))
                    except jax.errors.JaxRuntimeError:
                        raise
                    except Exception as error:
                        self._fail(entry, error)
        except jax.errors.JaxRuntimeError as error:
            self._broken(error, [entry for entry, _, _ in places if not entry.is_done])
