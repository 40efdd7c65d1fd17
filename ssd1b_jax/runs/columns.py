"""What a manifest's columns mean, and their values as settings have them."""

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ssd1b_jax import settings
from ssd1b_jax.errors import RequestError
from ssd1b_jax.images import sources
from ssd1b_jax.request import DRAWN, PICTURES, SEEDS
from ssd1b_jax.runs.remote import SCHEMES, is_remote
from ssd1b_jax.settings import SETTINGS, SPELLINGS, SWITCHES
from ssd1b_jax.settings.kinds import Number, Pair, Scales, Switch

OWN = ("id", "output")
TAKEN = (*OWN, *(row.name for row in SETTINGS.values() if row.of != "pipeline" and row.name != "overwrite"))
_SPELLINGS = SPELLINGS | {"id": "id", "custom_id": "id", "output": "output"}
MAX_QUOTE = 60  # characters of a value, in a sentence


@cache
def column(name: str) -> str:
    """The setting, "id" or "output" that a column's name stands for. Raises RequestError."""
    meaning = _SPELLINGS.get(name.strip().lower().replace("-", "_"))
    if meaning in TAKEN:
        return meaning
    if meaning is not None:
        raise RequestError(f"{name} is one for the whole run: leave the column out, and give it on the command line")
    near = settings.meant(name, TAKEN)
    hint = f"did you mean {near}?" if near else "see docs/settings.md"
    raise RequestError(f"no setting is named {name!r}: {hint} (--ignore {name} leaves it out)")


def columns(names: Iterable[str], ignored: Iterable[str] = ()) -> dict[str, str]:
    """The columns that are not ignored, and what they mean. Raises RequestError, also for two of one meaning."""
    meanings: dict[str, str] = {}
    for name in names:
        if name in ignored:
            continue
        meaning = column(name)
        if meaning in meanings.values():
            raise RequestError(f"two columns stand for {meaning}: leave one out")
        meanings[name] = meaning
    return meanings


def read(sent: Mapping[str, Any], meanings: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """A line's values by what they mean. Paths are relative to `folder`. What is empty is left out.

    Ranges are checked where requests are resolved. Raises RequestError or ImageError.
    """
    values = {}
    for name, meaning in meanings.items():
        value = sent.get(name)
        if not _is_absent(meaning, value):
            values[meaning] = _converted(meaning, value, folder)
    return values


def _is_absent(meaning: str, value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if meaning in SEEDS and value in (DRAWN, str(DRAWN)):
        return True
    return isinstance(value, str) and not value.strip() and meaning != "image"


def _converted(meaning: str, value: Any, folder: Path) -> Any:
    if meaning in OWN:
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
        raise RequestError(f"{meaning} must be text, got {type(value).__name__}")
    if meaning in PICTURES:
        return picture(meaning, value, folder)
    if isinstance(value, list):
        return tuple(value)
    return _from_text(meaning, value.strip()) if isinstance(value, str) else value


def picture(name: str, value: Any, folder: Path) -> str | bytes:
    """A path, or the bytes of a file. Raises RequestError or ImageError."""
    if isinstance(value, Mapping) and "bytes" in value:  # as data sets in Parquet have them
        value = value["bytes"] or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a path, got {type(value).__name__}")
    if not value.strip():
        raise RequestError(f"{name} is empty: leave the column out where pictures are made from noise alone")
    decoded = sources.from_json(value)
    if isinstance(decoded, bytes):
        return decoded
    if is_remote(value):
        return value
    if "://" in value:
        places = ", ".join(SCHEMES)
        raise RequestError(
            f"{name} must be a file, or in one of {places}, got {value[:MAX_QUOTE]!r}: download it first"
        )
    return str(folder / value)


def _from_text(name: str, text: str) -> Any:
    """Text as the kind of value that a setting takes."""
    kind = SETTINGS[name].kind
    try:
        if isinstance(kind, Switch):
            return SWITCHES[text.lower()]
        if isinstance(kind, Number):
            return _number(text)
        if isinstance(kind, Pair):
            return tuple(json.loads(text)) if text.startswith("[") else tuple(map(_number, text.split()))
        if isinstance(kind, Scales):
            return json.loads(text)
    except (KeyError, ValueError, TypeError, RecursionError):
        allowed = {Switch: "true or false", Number: "a number", Pair: "two numbers", Scales: "a JSON object"}
        raise RequestError(f"{name} must be {allowed[type(kind)]}, got {text[:MAX_QUOTE]!r}") from None
    return text


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
