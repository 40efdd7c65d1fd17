"""The kinds of values that settings take. Each kind checks a value, and describes itself in JSON Schema.

`check(name, value)` returns the value as plain Python, or raises RequestError in a sentence that names
the setting. `python` is the type of the checked value, `item` that of its numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.errors import RequestError
from ssd1b_jax.samplers import SAMPLERS, canonical

Schema = dict[str, Any]
PICTURE = "a path, bytes, a file, a Pillow image or an array"


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number from `low` to `high`; `above` leaves out `low` itself. `allowed` says so in words."""

    python: type
    low: int | float
    high: int | float = math.inf
    above: bool = False
    allowed: str

    @property
    def item(self) -> type:
        return self.python

    def check(self, name: str, value: Any) -> int | float:
        if isinstance(value, np.generic):
            value = value.item()
        whole_float = self.python is int and isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, (int, self.python)) or whole_float):
            raise RequestError(f"{name} must be {self.allowed}, got {value!r}")
        try:
            value = self.python(value)
        except OverflowError:
            value = math.inf
        in_range = self.low <= value <= self.high  # false for NaN too
        if not in_range or (self.above and value == self.low):
            raise RequestError(f"{name} must be {self.allowed}, got {value}")
        return value

    def schema(self) -> Schema:
        low = {"exclusiveMinimum" if self.above else "minimum": self.low}
        high = {} if self.high == math.inf else {"maximum": self.high}
        return {"type": "integer" if self.python is int else "number", **low, **high}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two numbers of one kind."""

    number: Number
    python: ClassVar[type] = tuple

    @property
    def item(self) -> type:
        return self.number.python

    def check(self, name: str, value: Any) -> tuple[Any, Any]:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise RequestError(f"{name} must be two numbers, got {value!r}")
        first, second = (self.number.check(name, number) for number in value)
        return first, second

    def schema(self) -> Schema:
        return {"type": "array", "items": self.number.schema(), "minItems": 2, "maxItems": 2}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]
    python: ClassVar[type] = str

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise RequestError(f"{name} must be one of {', '.join(self.words)}, got {value!r}")
        return value

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, kw_only=True)
class Text:
    """Any text."""

    allowed: str = "text"
    python: ClassVar[type] = str

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise RequestError(f"{name} must be {self.allowed}, got {type(value).__name__}")
        return value

    def schema(self) -> Schema:
        return {"type": "string"}


class SamplerName(Text):
    """A sampler by any of its names; the checked value is its name here. The schema lists only those."""

    def check(self, name: str, value: Any) -> str:
        try:
            return canonical(super().check(name, value))
        except RequestError:
            raise
        except ValueError as error:
            raise RequestError(str(error)) from None

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(SAMPLERS)}


class Switch:
    """True or False."""

    python: ClassVar[type] = bool

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise RequestError(f"{name} must be True or False, got {value!r}")
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A picture, not yet read. In JSON it is a path, or a data URI with the bytes of a file in base64."""

    allowed: str = PICTURE
    python: ClassVar[type] = str

    def check(self, name: str, value: Any) -> images.Source:
        if not isinstance(value, images.Source):
            raise RequestError(f"{name} must be {self.allowed}, got {type(value).__name__}")
        return value

    def schema(self) -> Schema:
        return {"type": "string"}


@dataclass(frozen=True, kw_only=True)
class Scales:
    """A number for each of some names, in the names' order."""

    number: Number
    python: ClassVar[type] = dict

    def check(self, name: str, value: Any) -> dict[str, float]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise RequestError(f"{name} must map names to scales, got {value!r}")
        return {key: self.number.check(f"the scale of LoRA {key!r}", value[key]) for key in sorted(value)}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.number.schema()}


Kind = Number | Pair | Choice | Text | Switch | PictureFile | Scales
