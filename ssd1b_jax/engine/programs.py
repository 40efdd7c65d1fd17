"""Compiled stages, shared by all pipelines of one config, dtypes and devices, and bounded in number.

A program takes the parameters as an argument, so it keeps no model alive. The least recently used programs are
dropped, and their traces with them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from typing import NamedTuple
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp

from ssd1b_jax import kernels
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine.calls import Calls
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.jobs import Program
from ssd1b_jax.engine.stages import Stages

MAX_PROGRAMS = 48  # compiled ones, each of some ten megabytes; a size of pictures has up to six
MAX_SETS = 4  # of config, dtypes and devices


class Lowerable(NamedTuple):
    """A stage, mapped over the devices, and the shapes of its arguments there."""

    name: str
    function: Callable
    mapped: Callable
    arguments: tuple

    @property
    def per_device(self) -> tuple:
        """The shapes of what one device gets: its parameters, and its part of the batches."""
        params, *batches = self.arguments
        cut = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
        return params, *cut


class Programs:
    """The stages of one model on its devices. Usable from many threads; a program is compiled once.

    Whoever asks for a program that another thread compiles waits for it, and nobody else does.
    """

    def __init__(self, config: ModelConfig, dtypes: Mapping[str, jnp.dtype], devices: Devices):
        self.config = config
        self.devices = devices
        self.stages = Stages(config, dtypes, devices.platform)
        self.calls = Calls(self.stages, devices)
        self._compiled: OrderedDict[tuple, Future[Callable]] = OrderedDict()
        self._alive: WeakValueDictionary[tuple, Future[Callable]] = WeakValueDictionary()  # also those that are held
        self._lock = threading.Lock()

    def get(self, name: str, program: Program) -> Callable:
        """The compiled stage; compiles it where it is not there. It takes what `Calls.packed` says."""
        return self._get(name, program).result()

    def hold(self, program: Program, guided: Collection[bool]) -> list[Future[Callable]]:
        """All that a program runs. It stays as long as the list does, however many others are compiled."""
        futures = [self._get(name, program) for name in self._names(program, guided)]
        for compiled in futures:
            compiled.result()
        return futures

    def is_there(self, program: Program, guided: Collection[bool]) -> bool:
        """Whether all that a program runs is compiled."""
        with self._lock:
            futures = [self._alive.get(_key(name, program)) for name in self._names(program, guided)]
        return all(compiled is not None and compiled.done() for compiled in futures)

    def compile(self, program: Program, guided: Collection[bool]) -> Iterator[str]:
        """Compile what a program runs; `guided` says which kinds of calls there are. Yields each name after it."""
        for name in self._names(program, guided):
            self.get(name, program)
            yield name

    def _names(self, program: Program, guided: Collection[bool]) -> tuple[str, ...]:
        moves = ("put", "put_latents") if self.devices.batch_size > 1 else ()
        return "prepare", *(advance(program.guided, phase) for phase in sorted(guided)), "decode", *moves

    def _get(self, name: str, program: Program) -> Future[Callable]:
        key = _key(name, program)
        with self._lock:
            compiled = self._alive.get(key)
            is_new = compiled is None
            if is_new:
                compiled = self._alive[key] = Future()
            self._compiled[key] = compiled
            self._compiled.move_to_end(key)
            while len(self._compiled) > MAX_PROGRAMS:
                self._compiled.popitem(last=False)
        if is_new:
            try:
                compiled.set_result(self._compile(name, program))
            except BaseException as error:
                with self._lock:  # the next who asks tries again
                    self._compiled.pop(key, None)
                    self._alive.pop(key, None)
                compiled.set_exception(error)
        return compiled

    def _compile(self, name: str, program: Program) -> Callable:
        function, arguments, donate = self.calls.packed(name, program)
        mapped = self.devices.map(function, donate=donate)
        compiled = mapped.lower(*arguments).compile()
        self.devices.forget(mapped)
        return compiled

    def lowerable(self, name: str, program: Program) -> Lowerable:
        """A stage to be lowered: from shapes alone, so that it need not run where it is compiled."""
        function, arguments, donate = self.calls.plain(name, program)
        return Lowerable(name, function, self.devices.map(function, donate=donate), arguments)


def _key(name: str, program: Program) -> tuple:
    if name in ("decode", "put_latents"):  # of all else they know nothing
        program = Program(program.width, program.height, guided=False, chunks=1, noise_rows=0)
    return name, program, kernels.is_plain()


def advance(two_sided: bool, guided: bool) -> str:
    """The stage that makes calls with guidance or without, of a program whose rows have one side or two."""
    return "advance_unguided" if two_sided and not guided else "advance"


_sets: OrderedDict[tuple, Programs] = OrderedDict()
_sets_lock = threading.Lock()


def shared(config: ModelConfig, dtypes: Mapping[str, jnp.dtype], devices: Devices) -> Programs:
    """The programs of a config, dtypes, devices and width: the same ones for all pipelines that agree in these."""
    if type(devices) is not Devices:  # it may map in another way
        return Programs(config, dtypes, devices)
    named = tuple(sorted((part, jnp.dtype(dtype).name) for part, dtype in dtypes.items()))
    key = config, named, devices.devices, devices.per_device
    with _sets_lock:
        if key not in _sets:
            _sets[key] = Programs(config, dtypes, devices)
        _sets.move_to_end(key)
        while len(_sets) > MAX_SETS:
            _sets.popitem(last=False)
        return _sets[key]


def forget() -> None:
    """Let go of all shared programs; pipelines that use some keep theirs."""
    with _sets_lock:
        _sets.clear()
