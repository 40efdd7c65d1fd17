"""Files in and out: foreign files are read with care, ours appear whole or not at all."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from ssd1b_jax.errors import FileError, SaveError

JSON_LIMIT = 64 << 20  # bytes; the largest honest ones are vocabularies, of a few megabytes

# How a file begins that was meant to be another, and what to do about it.
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself: run git lfs pull, or download it again",
    b"<!doctype html": "a web page: download the file itself, not the page about it",
    b"<html": "a web page: download the file itself, not the page about it",
    b"gguf": "a GGUF of quantized weights, which are not read: take the safetensors file of the model",
    b"<?xml": "an XML document, probably a server's error message: download it again",
}


def foreign(head: bytes) -> str | None:
    """The name and the remedy of a file that begins with these bytes, if it is known to be of no use here."""
    head = head.lstrip().lower()
    return next((words for start, words in _FOREIGN.items() if head.startswith(start)), None)


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """Strict JSON: no NaN, no repeated keys, bounded size and depth. Raises FileError, or FileNotFoundError."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror}") from None
    if len(data) > limit:
        raise FileError(f"{path} is larger than {limit} bytes: not what belongs there")
    if fault := foreign(data[:512]):
        raise FileError(f"{path} is {fault}")
    try:
        return parse_json(data)
    except ValueError as error:
        raise FileError(f"{path} is not readable JSON: {error}") from None


def parse_json(data: bytes) -> Any:
    """Strict JSON of bytes in UTF-8: no NaN, no repeated keys, bounded depth. Raises ValueError."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_unrepeated, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"repeated key {next(name for name in names if names.count(name) > 1)!r}")
    return table


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise what `write` would raise for this folder, before there is something to lose."""
    path = Path(path)
    faults = {
        "is a folder": path.is_dir(),
        "its folder does not exist": not path.parent.is_dir(),
        "its folder is not writable": not os.access(path.parent, os.W_OK),
    }
    for fault, true in faults.items():
        if true:
            raise SaveError(f"{path}: cannot be saved: {fault}")


def make_folder(folder: Path) -> None:
    """Create a folder, unless it exists. Raises SaveError."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise SaveError(f"{folder}: cannot be created: {(error.strerror or str(error)).lower()}") from error


def unused(path: Path) -> Path:
    """The path, or the first of NAME-2, NAME-3 … at which nothing is yet."""
    free, count = path, 1
    while os.path.lexists(free):
        count += 1
        free = path.with_stem(f"{path.stem}-{count}")
    return free


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under another name in the same folder, then rename it; an older file is replaced.

    Raises SaveError for what the disk refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(f"{path}: cannot be saved: {(error.strerror or str(error)).lower()}") from error
