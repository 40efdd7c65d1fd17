"""The fields that a caller sent, by the names of any interface, as settings of ours.

A name is looked up among all spellings of the setting rows. Forms carry text, which is turned into the kind of value
that the row takes. Ranges are checked where requests are resolved, so that every face says the same sentence. A
picture is a file in base64: text is never taken for a path of this machine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssd1b_jax import settings
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import RequestError
from ssd1b_jax.records.output import Output
from ssd1b_jax.request import DRAWN, PICTURES, SEEDS, Request, repeat
from ssd1b_jax.server.bodies import decode_picture
from ssd1b_jax.server.options import Size
from ssd1b_jax.settings import SETTINGS, SPELLINGS, SWITCHES

ALLOWED = {bool: "true or false", int: "a whole number", float: "a number"}
NEEDED = ("image", "prompt")  # of image to image
FROM_TEXT = ("prompt",)  # of what also makes pictures from text


class FieldError(RequestError):
    """A field that can't be used, by the name that the caller has for it."""

    def __init__(self, sentence: str, field: str | None, status: int = 400):
        super().__init__(sentence)
        self.field = field
        self.http_status = status


@dataclass(frozen=True, kw_only=True)
class Fields:
    """A request's settings, how many pictures are asked for, how they are written, and the caller's names for these.

    What is `needed` must be among the settings.
    """

    settings: Mapping[str, Any]
    needed: tuple[str, ...] = NEEDED
    count: int = 1
    output: Output = field(default_factory=Output)
    names: Mapping[str, str] = field(default_factory=dict)

    def requests(self, config: ModelConfig, size: Size) -> list[Request]:
        """Resolved requests, one a picture, at the size that is made. Raises FieldError or RequestError."""
        for name in self.needed:
            if self.settings.get(name) is None:
                raise FieldError(f"{self.name(name)} must be given", self.name(name))
        width, height = size
        try:
            request = Request(**{"image": None, **self.settings, "width": width, "height": height}).resolve(config)
            return repeat(request, self.count)
        except RequestError as error:
            raise self.renamed(error) from None

    def name(self, setting: str) -> str:
        """The caller's name for a setting."""
        return self.names.get(setting, setting)

    def renamed(self, error: RequestError) -> RequestError:
        """The error with the caller's name for the setting that its sentence begins with."""
        first, space, rest = str(error).partition(" ")
        if first not in SETTINGS:
            return error
        name = self.name(first)
        return FieldError(f"{name}{space}{rest}", name)


def read(sent: Mapping[str, Any], known: Mapping[str, str] = SPELLINGS, needed: tuple[str, ...] = NEEDED) -> Fields:
    """The settings among the fields that a caller sent; others are ignored. Raises FieldError for two of one meaning.

    None and empty text stand for a field that was not sent, but for prompts; seed -1 is a drawn one.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in sent.items():
        setting = known.get(name.lower())
        if setting is None or _is_absent(setting, value):
            continue
        if setting in values:
            raise FieldError(f"{names[setting]} and {name} are two names of one setting: send one", name)
        values[setting] = _converted(setting, value, name)
        names[setting] = name
    output = {row.name: values.pop(row.name) for row in settings.of("output") if row.name in values}
    for row in settings.of("pipeline"):
        values.pop(row.name, None)
    try:
        count = SETTINGS["num_images"].check(values.pop("num_images", 1))
        return Fields(settings=values, needed=needed, count=count, output=Output(**output), names=names)
    except RequestError as error:
        raise Fields(settings={}, names=names).renamed(error) from None


def _is_absent(setting: str, value: Any) -> bool:
    if value is None:
        return True
    if setting in SEEDS and value in (DRAWN, str(DRAWN)):
        return True
    return isinstance(value, str) and not value and "prompt" not in setting


def _converted(setting: str, value: Any, name: str) -> Any:
    """Text as the kind of value that a setting takes; what is no text stays as it is."""
    if setting in PICTURES:
        return value if isinstance(value, bytes | np.ndarray) else decode_picture(value, name)
    kind = SETTINGS[setting].kind.python
    if not isinstance(value, str) or kind is str:
        return value
    try:
        if kind is bool:
            return is_true(value)
        return kind(value) if kind in (int, float) else json.loads(value)
    except (ValueError, RecursionError):
        raise FieldError(f"{name} must be {ALLOWED.get(kind, 'JSON')}, got {value[:80]!r}", name) from None


def is_true(text: str) -> bool:
    """A form's switch. Raises ValueError."""
    try:
        return SWITCHES[text.lower()]
    except KeyError:
        raise ValueError(text) from None
