"""What `ssd1b batch` tells: a bar, events as JSON, every failure, and how to go on after Ctrl-C."""

import argparse
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from ssd1b_jax.cli.console import print_json
from ssd1b_jax.errors import INTERRUPTED

PATIENCE = 0.5  # seconds to give up leases in, where the process is about to end
LOG_SECONDS = 60  # between lines about progress, where there is no terminal


class Report:
    """Tells about one run, as `arguments` ask; from any thread."""

    def __init__(self, arguments: argparse.Namespace):
        self._quiet, self._json = arguments.quiet, arguments.json
        self._mutex = threading.Lock()
        self._bar: Any = None
        self._run: Any = None
        self._logged = time.monotonic()

    def begin(self, run) -> None:
        """Say what is there, and what is to be made."""
        from tqdm import tqdm

        self._run = run
        counts = dict(kept=run.kept, redone=run.redone, retried=run.retried, new=run.new)
        if self._json:
            print_json(dict(event="start", folder=str(run.folder.root), **counts))
        elif run.resumed:
            retried = f", {run.retried} tried again" if run.retried else ""
            self._print(f"resumed: {run.kept} kept, {run.redone} redone, {run.new} new{retried}")
        else:
            self._print(f"{run.new} pictures to make")
        total = run.tally.total
        self._bar = tqdm(total=total, initial=run.kept, unit="picture", leave=False, disable=self._hidden)

    @property
    def _hidden(self) -> bool | None:
        return True if self._quiet or self._json else None  # None: where standard error is no terminal

    def tell(self, entry: dict[str, Any]) -> None:
        """An entry of the journal."""
        with self._mutex:
            if self._json:
                print_json(dict(event="failed" if entry["error"] else "picture", **entry))
            self._bar.update()
            if self._bar.disable and not (self._quiet or self._json):
                self._log()

    def _log(self) -> None:
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            tally = self._run.tally
            left = "" if tally.seconds_left is None else f", {tally.seconds_left:.0f} s left"
            print(f"{tally.done} of {tally.total}, {tally.rate:.2f} pictures/s{left}", file=sys.stderr, flush=True)

    def bad(self, sentence: str) -> None:
        """A line that is wrong."""
        print(sentence, file=sys.stderr)

    def end(self, run) -> int:
        """Say what came of the run, and name every failure. How many there are."""
        self.close()
        failed = 0
        for entry in run.failures():
            self.bad(f"{entry['where']}: {entry['error']}")
            failed += 1
        if self._json:
            print_json(dict(event="summary", **run.tally.facts()))
        else:
            self._print(f"{run.folder.root}: {run.tally.summary()}")
        return failed

    def dry(self, checked, seconds: float | None, devices: str | None) -> None:
        """Say what a run would take."""
        from ssd1b_jax.runs.estimate import words

        if self._json:
            facts = dict(lines=checked.lines, pictures=checked.pictures, calls=checked.calls, bad=checked.bad_count)
            print_json(dict(event="dry-run", **facts, seconds=seconds, devices=devices))
            return
        takes = "" if seconds is None else f"; about {words(seconds)} on {devices}"
        self._print(
            f"{checked.lines} lines, {checked.bad_count} of them wrong: {checked.pictures} pictures, "
            f"{checked.calls} model calls{takes}"
        )

    def interrupted(self, command: str) -> None:
        """Say how to go on."""
        done = f", {self._run.tally.done} of {self._run.tally.total} are done" if self._run else ""
        print(f"\ninterrupted{done}; to go on: {command}", file=sys.stderr, flush=True)
        if self._run is not None:
            giving_up = threading.Thread(target=self._run.abandon, daemon=True)
            giving_up.start()
            giving_up.join(PATIENCE)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _print(self, line: str) -> None:
        if not self._quiet and not self._json:
            print(line, flush=True)


def interruptible(work: Callable[[], int], on_interrupt: Callable[[], None]) -> int:
    """Do work in a thread of its own, so that Ctrl-C and SIGTERM end the process at once, whatever a device is at.

    That loses nothing: a run may be ended at any moment.
    """
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    context = contextvars.copy_context()
    with _terminated_as_interrupted():
        threading.Thread(target=context.run, args=(run,), name="ssd1b-batch", daemon=True).start()
        try:
            return future.result()
        except KeyboardInterrupt:
            on_interrupt()
            sys.stdout.flush()
            os._exit(INTERRUPTED)  # Python's own end would wait for the device


@contextmanager
def _terminated_as_interrupted():
    if threading.current_thread() is not threading.main_thread():  # which alone may
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
