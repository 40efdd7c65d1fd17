"""Calls of modules that are traced once, and calls that a program shows as one equation each."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
from flax import nnx

from ssd1b_jax import kernels


def repeated(call: Callable, name: str | None = None) -> Callable:
    """A `__call__` that is traced and lowered once for all modules of the same structure and shapes.

    The result must follow from the positional arguments and the parameters, which must not change. Arguments that are
    tuples of whole numbers are sizes: each of them has a trace of its own, as shapes have.
    `name`, by default the class's, is the function's name in programs.
    """

    def traced(graphdef, plain, sizes, params, *arrays):
        arguments = (array if size is None else size for array, size in zip(arrays, sizes, strict=True))
        return call(nnx.merge(graphdef, params), *arguments)

    traced.__name__ = name or call.__qualname__.partition(".")[0]
    traced = jax.jit(traced, static_argnums=(0, 1, 2))

    @functools.wraps(call)
    def shared(module, *arguments):
        graphdef, params = nnx.split(module)
        sizes = tuple(argument if _is_size(argument) else None for argument in arguments)
        arrays = (argument if size is None else None for argument, size in zip(arguments, sizes, strict=True))
        return traced(graphdef, kernels.is_plain(), sizes, params, *arrays)

    return shared


def _is_size(argument) -> bool:
    return isinstance(argument, tuple) and all(isinstance(side, int) for side in argument)


@contextmanager
def marked(kinds: Sequence[type[nnx.Module]], prefix: str) -> Iterator[None]:
    """While a program is traced, every call of these modules is a `jax.jit`, named `prefix` and the class.

    The classes' `__call__` is replaced meanwhile, so that nothing in the networks depends on it. A call that is
    `repeated` already is unwrapped first: its traces would outlive these.
    """
    calls = {kind: kind.__call__ for kind in kinds}
    try:
        for kind, call in calls.items():
            kind.__call__ = repeated(inspect.unwrap(call), prefix + kind.__name__)
        yield
    finally:
        for kind, call in calls.items():
            kind.__call__ = call
