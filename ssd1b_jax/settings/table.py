"""All rows by name, and look-ups in them."""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ssd1b_jax.settings.options import OPTION_ROWS
from ssd1b_jax.settings.rows import REQUEST_ROWS
from ssd1b_jax.settings.setting import Owner, Setting

SHORTEST = 4  # letters of a name that others may be like
SETTINGS: Mapping[str, Setting] = MappingProxyType({row.name: row for row in (*REQUEST_ROWS, *OPTION_ROWS)})
# The settings by every name that they go by, in small letters, and the words that turn a switch on or off.
SPELLINGS = MappingProxyType({name.lower(): row.name for row in SETTINGS.values() for name in row.names})
SWITCHES = MappingProxyType(
    dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
)


def of(owner: Owner) -> tuple[Setting, ...]:
    """The rows of a request, a call, a pipeline or the output."""
    return tuple(row for row in SETTINGS.values() if row.of == owner)


def default(name: str) -> Any:
    """A setting's default; None is the model's own."""
    return SETTINGS[name].default


def named(interface: str) -> dict[str, str]:
    """The settings that another interface has ("a1111", "segmind", "openai", "diffusers"), by its names for them."""
    return {row.api[interface]: row.name for row in SETTINGS.values() if interface in row.api}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelled most like this one; None where none is near."""
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def meant(name: str, known: Iterable[str] = SETTINGS) -> str | None:
    """The one of the `known` names that a name stands for: itself, a setting's name elsewhere, or the most like it.

    Case, hyphens and underscores don't matter. None where no name is near, or a setting is meant that is not known.
    """
    spelled = {_plain(other): row.name for row in SETTINGS.values() for other in row.names}
    spelled |= {_plain(other): other for other in known}
    word = _plain(name)
    if word not in spelled:
        word = nearest(word, [other for other in spelled if len(other) >= SHORTEST])
    setting = spelled.get(word)
    return setting if setting in known else None


def _plain(name: str) -> str:
    return name.lower().strip("-").replace("-", "_")


def plain(value: Any) -> Any:
    """A setting's value as JSON has it: lists for tuples, plain numbers for NumPy's."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
