"""What is done for a picture before the devices can take it: its programs are compiled, then it is read.

Both have a thread of their own: pictures whose programs are there are read and advanced while others are compiled.
"""

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import jax

from ssd1b_jax.engine import inputs
from ssd1b_jax.engine.adapters import Adapters
from ssd1b_jax.engine.jobs import Job, Program
from ssd1b_jax.engine.programs import Programs
from ssd1b_jax.engine.slots import Entry
from ssd1b_jax.engine.worker import Worker
from ssd1b_jax.errors import DeviceError, first_line

READ_AHEAD = 2  # times what the devices take at once
THREADS = ("ssd1b-compiler", "ssd1b-reader")


class Needed(NamedTuple):
    """What has to be compiled for a picture: stages of a program for its kinds of calls, and the merge of LoRAs."""

    program: Program
    guided: frozenset[bool]
    loras: frozenset[str]

    @classmethod
    def of(cls, job: Job) -> "Needed":
        return cls(job.group.program, job.kinds, frozenset(name for name, _ in job.group.loras))


class Reading:
    """Gets pictures ready, in order.

    `owner` owns the threads. `entries` gives the pictures that are not done. `fail(entry, error)` fails one, and
    `tell` has the queue look at what has changed.
    """

    def __init__(
        self,
        owner: object,
        programs: Programs,
        adapters: Adapters,
        entries: Callable[[], Collection[Entry]],
        fail: Callable[[Entry, BaseException], None],
        tell: Callable[[], None],
    ):
        self._programs, self._adapters = programs, adapters
        self._entries, self._fail, self._tell = entries, fail, tell
        self._most = READ_AHEAD * programs.devices.batch_size
        self._is_compiling = False
        self._compiler, self._reader = (Worker(owner, name) for name in THREADS)

    def go_on(self, order: Sequence[Entry]) -> None:
        """Have the next pictures read, and no more than are soon needed. Only the queue's own thread calls this.

        A picture whose programs are not there waits until they are, and those after it do not.
        """
        ahead = sum(entry.is_reading or entry.is_ready for entry in order)
        known: dict[Needed, bool] = {}
        for entry in order:
            if ahead >= self._most:
                return
            if not entry.is_waiting:
                continue
            needed = Needed.of(entry.job)
            if needed not in known:
                known[needed] = self._is_there(needed)
            if known[needed]:
                entry.is_reading = True
                ahead += 1
                self._reader.submit(lambda entry=entry: self._read(entry))
            elif not self._is_compiling:
                self._is_compiling = True
                self._compiler.submit(lambda needed=needed: self._compile(needed))

    def end(self) -> None:
        """Let both threads end once nothing is left to do."""
        self._compiler.end()
        self._reader.end()

    def join(self) -> None:
        """Wait until both threads have ended. What is being compiled is compiled to its end."""
        self._compiler.join()
        self._reader.join()

    def _compile(self, needed: Needed) -> None:
        """Compile until nobody wants it any more. An error is that of the pictures that wait for it."""
        try:
            programs = self._programs.compile(needed.program, needed.guided)
            for _ in itertools.chain(programs, self._adapters.compile(needed.loras)):
                if not self._waiting(needed):
                    break
        except Exception as error:
            if isinstance(error, jax.errors.JaxRuntimeError):
                size = f"{needed.program.width} x {needed.program.height}"
                error = DeviceError(f"the programs of {size} pictures can't be compiled: {first_line(error)}")
            for entry in self._waiting(needed):
                self._fail(entry, error)
        finally:
            self._is_compiling = False
            self._tell()

    def _is_there(self, needed: Needed) -> bool:
        is_there = self._programs.is_there(needed.program, needed.guided)
        return is_there and self._adapters.is_compiled(needed.loras)

    def _waiting(self, needed: Needed) -> list[Entry]:
        return [
            entry
            for entry in self._entries()
            if entry.is_waiting and not entry.is_cancelled and Needed.of(entry.job) == needed
        ]

    def _read(self, entry: Entry) -> None:
        try:
            if not entry.is_done:
                program = entry.job.group.program
                entry.programs = self._programs.hold(program, entry.job.kinds)
                packing = self._programs.calls.rows(program).inputs
                entry.inputs = inputs.read(entry.job, self._programs.config, entry.pictures, packing)
        except Exception as error:
            self._fail(entry, error)
        if entry.is_done:  # it was cancelled meanwhile
            entry.release()
        entry.is_reading = False
        self._tell()
