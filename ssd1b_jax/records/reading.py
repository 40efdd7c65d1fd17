"""Records read back from pictures and sidecars, checked, and compared."""

import functools
import hashlib
import json
import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssd1b_jax import images, settings
from ssd1b_jax.errors import RecordError, RequestError
from ssd1b_jax.records.record import FORMAT, KEY, SOURCES, Record

# What a record must have, as keys from the outermost inwards.
PARTS = {
    "request": dict,
    "pixels sha256": str,
    "written name": str,
    "written upscale": int,
    "written sha256": str,
    "model name": str,
    "model sha256": str,
    "dtype unet": str,
    "per_device": int,
    "versions": dict,
    "device": dict,
    "loras": dict,
}
PNG = b"\x89PNG"
_FOREIGN = "its record of how it was made is damaged or foreign"
_NAMES = re.compile(r"(model|request\.image|request\.mask|loras\..*)\.name")  # of files, which their sha256 stand for


def sidecar_path(path: str | Path) -> Path:
    """Where the sidecar of a picture's file lies, whether or not there is one."""
    return Path(path).with_suffix(".json")


def embedded(path: str | Path) -> dict[str, bytes]:
    """The pictures that are embedded in a PNG, as files, by the names of a Request's fields."""
    attached = images.read_attached(path)
    return {name: attached[chunk] for name, chunk in SOURCES.items() if chunk in attached}


def read(path: str | Path) -> Record:
    """The record in a picture, or in a sidecar: the one given, or the one beside a picture without a record.

    A sidecar beside a picture must be of that picture. Raises ImageError for a picture that can't be read, RecordError
    for one without a record of its own.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        text = images.read_text(path).get(KEY)
        if text is not None:
            return _parsed(text, path)
        path, picture = sidecar_path(path), path
        if not path.is_file():
            raise RecordError(
                f"{picture}: does not say how it was made: it is not a picture of this program, was saved without "
                "metadata, or has lost it on its way"
            )
        record = _from_sidecar(path)
        _check_is_of(record, path, picture)
        return record
    return _from_sidecar(path)


def holds(record: Record, picture: Path) -> bool | None:
    """Whether a file holds the picture that a record was written for; None where the record can't tell.

    A record in a file knows the pixels that were written, which a PNG keeps; one in a sidecar knows the file too.
    """
    digest, data = record["written"].get("file"), picture.read_bytes()
    if digest is not None and hashlib.sha256(data).hexdigest() == digest:
        return True
    if data.startswith(PNG):
        return images.sha256(images.load(picture).pixels) == record["written"]["sha256"]
    return None if digest is None else False


def _check_is_of(record: Record, sidecar: Path, picture: Path) -> None:
    """Raise RecordError for a sidecar that is not of the picture beside it."""
    name, is_held = record["written"]["name"], holds(record, picture)
    if is_held or (is_held is None and name == picture.name):
        return
    whose = name if name != picture.name else "other pixels: the picture was changed or replaced"
    raise RecordError(
        f"{sidecar}: is not the record of {picture} but of {whose}; give {sidecar} to make that one again"
    )


def _from_sidecar(path: Path) -> Record:
    try:
        return _parsed(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _parsed(text: str, path: Path) -> Record:
    try:
        record = json.loads(text)
        if record["format"] != FORMAT:
            raise RecordError(f"{path}: its record has format {record['format']!r}, this version reads {FORMAT}")
        _check_types(record)
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise RecordError(f"{path}: {_FOREIGN}") from error
    for name, value in dict(upscale=record["written"]["upscale"], per_device=record["per_device"]).items():
        try:
            settings.SETTINGS[name].check(value)
        except RequestError as error:
            raise RecordError(f"{path}: its record cannot be followed: {error}") from None
    row, count = record.get("row", 0), record["per_device"]
    if row not in range(count):
        raise RecordError(f"{path}: its record cannot be followed: a batch of {count} has no row {row!r}")
    return record


def _check_types(record: Record) -> None:
    """Raise TypeError or KeyError for a part that is missing or of another type."""
    for keys, kind in PARTS.items():
        value = functools.reduce(operator.getitem, keys.split(), record)
        if not isinstance(value, kind):
            raise TypeError(f"{keys} is {value!r}")
    pictures = filter(None, map(record["request"].get, SOURCES))
    for file in (*pictures, *record["loras"].values()):
        if not isinstance(file["sha256"], str) or not isinstance(file["name"], str | None):
            raise TypeError(f"{file!r} is no file")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each difference between two records, but for names of files, and the pixels."""
    return [
        f"{key}: {old} then, {new} now"
        for key, old, new in _paired(then, now)
        if old != new and key.split(".")[0] not in ("pixels", "written") and not _NAMES.fullmatch(key)
    ]


def _paired(then: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """All leaves of two trees with their dotted keys; "none" where one has no such leaf."""
    if not isinstance(then, Mapping) and not isinstance(now, Mapping):
        yield key, then, now
        return
    then, now = (tree if isinstance(tree, Mapping) else {} for tree in (then, now))
    for name in sorted({*then, *now}):
        inner = f"{key}.{name}" if key else name
        yield from _paired(then.get(name, "none"), now.get(name, "none"), inner)
