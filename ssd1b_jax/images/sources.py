"""The forms that a picture to be read may have: how they are taken, compared, shown in short and put into JSON.

A path stays a path, and is read when the picture is needed. Everything else is bytes of a file, a Pillow image
or an array.
"""

import base64
import binascii
import os
from typing import Any

import numpy as np

from ssd1b_jax.errors import ImageError
from ssd1b_jax.images.reading import Source, load
from ssd1b_jax.images.writing import encode

_DATA_URI = "data:"
_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp", b"GIF8": "image/gif"}


def receive(value: Any) -> Any:
    """A picture as it is kept: files that are open are read, other libraries' arrays become NumPy's.

    What is no picture at all is returned as it is.
    """
    if isinstance(value, Source):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "read"):
        data = value.read()
        if not isinstance(data, bytes):
            raise ImageError("a file with a picture must be opened for reading bytes, as open(path, 'rb')")
        return data
    return np.asarray(value) if hasattr(value, "__array__") else value


def same(first: Source | None, second: Source | None) -> bool:
    """Whether two pictures are the same: paths by their names, bytes and arrays by what they hold."""
    paths = [isinstance(source, str | os.PathLike) for source in (first, second)]
    if any(paths):
        return all(paths) and os.fspath(first) == os.fspath(second)
    arrays = [isinstance(source, np.ndarray) for source in (first, second)]
    if any(arrays):
        return all(arrays) and first.dtype == second.dtype and np.array_equal(first, second)
    return bool(first == second)


def show(source: Any) -> str:
    """A picture in a few words: its name, or its kind and size."""
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {' x '.join(map(str, source.shape))} {source.dtype}>"
    if isinstance(source, Source):
        return f"<{source.mode} image {source.width} x {source.height}>"
    return f"<{type(source).__name__}>"


def to_json(source: Source | None) -> str | None:
    """A path as text; anything else as a data URI of a file's bytes, a PNG's where there was no file."""
    if source is None:
        return None
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    data = source if isinstance(source, bytes) else encode(load(source).pixels, ".png")
    kind = next((kind for head, kind in _TYPES.items() if data.startswith(head)), "application/octet-stream")
    return f"{_DATA_URI}{kind};base64,{base64.b64encode(data).decode()}"


def from_json(value: Any) -> Any:
    """Inverse of `to_json`. Raises ImageError for a data URI that is damaged."""
    if not isinstance(value, str) or not value.startswith(_DATA_URI):
        return value
    head, _, data = value.partition(",")
    if not head.endswith(";base64"):
        raise ImageError(f"a data URI of a picture must be in base64, got {head[:60]!r}")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ImageError(f"a data URI of a picture is damaged: {error}") from None
