"""Where a picture of a run goes: names that stay in the run's folder, on every system, and are never two alike."""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Any

from ssd1b_jax.errors import RunError
from ssd1b_jax.records import sidecar_path
from ssd1b_jax.records.output import SUFFIXES, Output
from ssd1b_jax.runs.manifest import Line
from ssd1b_jax.runs.remote import is_remote

MAX_PART, MAX_NAME = 240, 1000  # bytes of a file's name, and of a path
ENDS = tuple(end for ends in SUFFIXES.values() for end in ends)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows' own
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")


def name(line: Line, output: Output) -> str:
    """The file of a line's picture, below the run's folder: its `output`, or after its id, image or number."""
    values: dict[str, Any] = line.values
    given = values.get("output") or values.get("id")
    if given is None and line.image is not None:
        image = PurePosixPath(line.image)
        inside = not image.is_absolute() and ".." not in image.parts and not is_remote(line.image)
        given = str(image.with_suffix("") if inside else image.stem)
    given = given or f"{line.number:06}"
    if not given.lower().endswith(ENDS):
        given += output.suffix
    return given


def numbered(name: str, index: int, count: int) -> str:
    """The file of one of the `count` pictures of a line."""
    if count == 1:
        return name
    path = PurePosixPath(name)
    return str(path.with_stem(f"{path.stem}-{index + 1:0{len(str(count))}}"))


def sidecar(name: str) -> str:
    """The sidecar of a picture's file."""
    return sidecar_path(name).as_posix()


def check(name: str, where: str) -> None:
    """Raise RunError for a name that leaves the run's folder, or that some system can't have."""
    parts = name.split("/")
    faults = {
        "is absolute": name.startswith(("/", "~")),
        "leads out of the folder": ".." in parts,
        "has an empty part": "" in parts or "." in parts,
        "has a part that begins with a dot": any(part.startswith(".") for part in parts),
        "ends in a space or a dot": any(part.endswith((" ", ".")) for part in parts),
        "has a character that no file can have everywhere": _UNUSABLE.search(name) is not None,
        "is not text in UTF-8": any("\ud800" <= letter <= "\udfff" for letter in name),
        "is the name of a device on Windows": any(_DEVICES.fullmatch(part) for part in parts),
        "is too long": len(name.encode("utf-8", "replace")) > MAX_NAME
        or any(len(part.encode("utf-8", "replace")) > MAX_PART for part in parts),
    }
    for fault, true in faults.items():
        if true:
            raise RunError(f"{where}: the output {name[:80]!r} {fault}: give the line another output")


def is_safe(name: str) -> bool:
    """Whether `check` lets a name through."""
    try:
        check(name, "")
    except RunError:
        return False
    return True


def key(name: str) -> str:
    """Equal for names that are one file on some system."""
    return unicodedata.normalize("NFC", name).casefold()
