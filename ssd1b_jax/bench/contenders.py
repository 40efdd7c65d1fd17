"""Contenders in processes of their own, taking turns."""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

from ssd1b_jax.bench.task import Task
from ssd1b_jax.errors import DEVICE, ContenderError, Error

TIMEOUT = 3600  # seconds that one run may take, setting up included
BUG = 1  # the exit code of a process that an exception ended


@dataclass
class Measured:
    """Seconds of each run, by the clock and of all cores; peak memory in bytes; flops and output of one run."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0
    flops: float | None = None
    notes: dict[str, float] = field(default_factory=dict)
    output: np.ndarray | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Prepared:
    """A part that is set up: `run` does it once, and is done when it returns.

    `flops` are those of the plain algorithms. `notes` gives more numbers to show; it is called at the end,
    or after every run where each has a process of its own. `output` gives the array that contenders of
    equal weights and inputs should agree on.
    """

    run: Callable[[], object]
    flops: float | None = None
    notes: Callable[[], dict[str, float]] = dict
    output: Callable[[], np.ndarray] | None = None


def started(run: Callable[[], None]) -> Prepared:
    """A first picture; `second_s` is another's time."""

    def another() -> dict[str, float]:
        began = time.perf_counter()
        run()
        return dict(second_s=time.perf_counter() - began)

    return Prepared(run, notes=another)


def agreement(output: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The largest difference from a reference, and the PSNR in dB, whose peak is the reference's largest value."""
    assert output.shape == reference.shape, (output.shape, reference.shape)
    differences = np.abs(output.astype(np.float64) - reference)
    error = np.sqrt(np.square(differences).mean())
    psnr = 20 * np.log10(np.abs(reference).max() / error) if error else np.inf
    return float(differences.max()), float(psnr)


def take_turns(names: list[str], task: Task, reps: int, warm: bool = True) -> list[Measured]:
    """Run a task `reps` times by each contender, one after the other, after one run to warm up.

    A name is that of a module of this room. `ours:load` is `ours` with another part than the task's.
    """
    if not warm:
        return _fresh(names, task, reps)
    context = multiprocessing.get_context("spawn")
    processes = []
    try:
        for name in names:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, name, task), daemon=True)
            process.start()
            there.close()
            processes.append((process, here, Measured(name)))
            _answer(process, here)  # one sets up after the other
        for rep in range(reps + 1):
            for process, here, measured in processes:
                here.send("run")
                seconds, cpu = _answer(process, here)
                if rep:
                    measured.seconds.append(seconds)
                    measured.cpu.append(cpu)
        for process, here, measured in processes:
            here.send("stop")
            measured.memory, measured.flops, measured.notes, measured.output = _answer(process, here)
            process.join()
    finally:
        for process, _, _ in processes:
            process.kill()
    return [measured for _, _, measured in processes]


def _fresh(names: list[str], task: Task, reps: int) -> list[Measured]:
    """As `take_turns`, each run in a new process and timed from its start; one run fills the caches of the disk."""
    context = multiprocessing.get_context("spawn")
    every = [(Measured(name), []) for name in names]
    for rep in range(reps + 1):
        for measured, noted in every:
            here, there = context.Pipe()
            process = context.Process(target=_once, args=(there, measured.name, task), daemon=True)
            began = time.perf_counter()
            process.start()
            there.close()
            try:
                cpu, memory = _answer(process, here)
                seconds = time.perf_counter() - began
                notes = _answer(process, here)
                process.join()
            finally:
                process.kill()
            if rep:
                measured.seconds.append(seconds)
                measured.cpu.append(cpu)
                measured.memory = max(measured.memory, memory)
                noted.append(notes)
    for measured, noted in every:
        measured.notes = {name: statistics.median(notes[name] for notes in noted) for name in noted[0]}
    return [measured for measured, _ in every]


def _answer(process, connection):
    try:
        if not connection.poll(TIMEOUT):
            raise ContenderError(f"a contender gave no answer for {TIMEOUT} s")
        answer = connection.recv()
    except EOFError:
        process.join()
        if process.exitcode == BUG:
            raise ContenderError("a contender has a bug: its traceback stands above", DEVICE) from None
        raise ContenderError(f"a contender died with exit code {process.exitcode}: is there memory enough?") from None
    if isinstance(answer, ContenderError):
        raise answer
    return answer


def _prepare(name: str, task: Task) -> Prepared:
    module, _, part = name.partition(":")
    return import_module(f"ssd1b_jax.bench.{module}").PARTS[part or task.part](task)


def _serve(connection, name: str, task: Task) -> None:
    try:
        prepared = _prepare(name, task)
        connection.send(None)
        while connection.recv() == "run":
            began, cpu = time.perf_counter(), time.process_time()
            prepared.run()
            connection.send((time.perf_counter() - began, time.process_time() - cpu))
        peak = _peak()
        output = None if prepared.output is None else np.asarray(prepared.output())
        connection.send((peak, prepared.flops, prepared.notes(), output))
    except Error as error:
        connection.send(ContenderError(f"{name}, {task.part}: {error.sentence}"))


def _once(connection, name: str, task: Task) -> None:
    try:
        prepared = _prepare(name, task)
        prepared.run()
        connection.send((time.process_time(), _peak()))
        connection.send(prepared.notes())
    except Error as error:
        connection.send(ContenderError(f"{name}, {task.part}: {error.sentence}"))


def _peak() -> float:
    """The peak memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
