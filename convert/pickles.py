"""Pickles of PyTorch's weights, read by a machine that can't run code.

A pickle is a program for a stack machine, whose instructions can import and call anything. This one
knows only the instructions that a table of tensors needs: it has none to import, and the only calls
are those that describe a tensor.
"""

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

PICKLE_LIMIT = 4 << 20  # bytes; SDXL's has 0.4 million
DEPTH_LIMIT = 100_000  # items on the stack, or in the memo
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Name(NamedTuple):
    """Something that a pickle would import; here only its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


@dataclass(frozen=True, eq=False)
class Storage:
    """The numbers behind tensors, as a persistent id describes them."""

    dtype: np.dtype
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Inert:
    """Something other than weights, which is ignored: a callback's state, a number of NumPy's."""


def _naturals(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _storage(description: Any) -> Storage:
    """From a persistent id: ("storage", its type, its key, where it was, its length)."""
    if not (isinstance(description, tuple) and len(description) == 5):
        raise ValueError("it refers to something that is no storage of numbers")
    storage, kind, key, _, count = description
    if storage != "storage" or not isinstance(kind, Name):
        raise ValueError("it refers to something that is no storage of numbers")
    if kind.module not in ("torch", "torch.storage") or kind.name not in STORAGES:
        raise ValueError(f"numbers of {kind} can't be read: only {', '.join(STORAGES)}")
    if not (isinstance(key, str) and re.fullmatch(r"[0-9]{1,9}", key) and _naturals((count,))):
        raise ValueError("it names a storage that can't be: damaged, or made to harm")
    return Storage(np.dtype(STORAGES[kind.name]), key, count)


def _tensor(*arguments: Any) -> Tensor:
    if len(arguments) < 4 or not isinstance(arguments[0], Storage) or not _naturals(arguments[1:2]):
        raise ValueError("it describes a tensor that can't be")
    storage, offset, shape, strides = arguments[:4]
    if not _naturals(shape) or not _naturals(strides) or len(shape) != len(strides):
        raise ValueError("it describes a tensor whose shape can't be")
    return Tensor(storage, offset, shape, strides)


def _parameter(*arguments: Any) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise ValueError("it describes a parameter that is no tensor")
    return arguments[0]


def _ordered(*arguments: Any) -> dict:
    if arguments not in ((), ([],)):
        raise ValueError("it describes an OrderedDict of another kind")
    return {}


# All that may be called, and what is done instead. Anything else is refused by name.
CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _ordered,
    "numpy.dtype": lambda *arguments: Inert(),
    "numpy.core.multiarray.scalar": lambda *arguments: Inert(),
    "numpy._core.multiarray.scalar": lambda *arguments: Inert(),
    "_codecs.encode": lambda *arguments: Inert(),
}
# Harmless to name: classes of what is no weights, as keys or types.
NAMES = re.compile(r"(torch(\.storage)?\.\w+Storage|pytorch_lightning\.[\w.]+)")


def load(data: bytes) -> Any:
    """What a pickle describes, of dicts, lists, tuples, plain values and tensors."""
    if len(data) > PICKLE_LIMIT:
        raise ValueError(f"its pickle has {len(data)} bytes, more than any table of tensors")
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, argument)
    raise ValueError("its pickle has no end")


class _Machine:
    """A stack, marks on it, and a memo."""

    MARK = object()

    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is self.MARK:
            raise ValueError("its pickle takes what it never made")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items = []
        while self.stack:
            item = self.stack.pop()
            if item is self.MARK:
                return items[::-1]
            items.append(item)
        raise ValueError("its pickle takes what it never made")

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError("its pickle fills what is no list or table")
        return self.stack[-1]

    def step(self, opcode: str, argument: Any) -> None:
        if len(self.stack) > DEPTH_LIMIT or len(self.memo) > DEPTH_LIMIT:
            raise ValueError("its pickle makes more than any table of tensors has")
        if opcode in _PUSH:
            self.stack.append(_PUSH[opcode](argument))
        elif opcode in _TUPLES:
            self.stack.append(tuple([self.pop() for _ in range(_TUPLES[opcode])][::-1]))
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if opcode == "MEMOIZE" else argument] = self.top(object)
        elif opcode in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError("its pickle recalls what it never made")
            self.stack.append(self.memo[argument])
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)
        elif opcode not in ("PROTO", "FRAME"):
            raise ValueError(
                f"its pickle has the instruction {opcode}, which no table of tensors needs: do not trust it"
            )

    def set_items(self, items: list[Any]) -> None:
        table = self.top(dict | Inert)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | Name):
                raise ValueError("its pickle has a table whose keys are no names")
            if isinstance(table, dict):
                if key in table:
                    raise ValueError(f"{str(key)[:200]!r} is in its table twice")
                table[key] = value

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("its pickle imports what has no name")
        wanted = Name(module, name)
        if str(wanted) not in CALLS and not NAMES.fullmatch(str(wanted)):
            raise ValueError(f"it asks for {wanted}, which no weights need: do not trust this file")
        self.stack.append(wanted)

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name) or str(called) not in CALLS or not isinstance(arguments, tuple):
            raise ValueError(f"it calls {str(called)[:200] if isinstance(called, Name) else 'something unnamed'}, "
                             "which no weights need: do not trust this file")  # fmt: skip
        self.stack.append(CALLS[str(called)](*arguments))

    def build(self) -> None:
        self.pop()
        self.top(dict | Inert | Tensor)  # the attributes of what is no weights are ignored


_PUSH: dict[str, Callable[[Any], Any]] = {
    "MARK": lambda _: _Machine.MARK,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
} | dict.fromkeys(
    (
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "SHORT_BINBYTES",
        "BINBYTES",
    ),
    lambda argument: argument,
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.stack.append(_storage(machine.pop())),
}


def _append(machine: _Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)
