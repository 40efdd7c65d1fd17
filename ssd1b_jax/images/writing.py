"""Pixels and their text to picture files: where pictures leave."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from ssd1b_jax import files
from ssd1b_jax.errors import ImageError
from ssd1b_jax.images import metadata
from ssd1b_jax.images.reading import reason
from ssd1b_jax.images.resizing import Pixels, to_pil

Text = Mapping[str, str]
Attachments = Mapping[str, bytes]  # chunks of a PNG by their names

QUALITY = 95
_JPEG = ("JPEG", 65_500, {"subsampling": 0})  # format, longest side in pixels, how it is written
_ENCODERS = {".png": ("PNG", 2**31 - 1, {}), ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": ("WEBP", 16_383, {})}


def encode(
    pixels: Pixels,
    suffix: str,
    text: Text | None = None,
    attached: Attachments | None = None,
    *,
    label: Text = metadata.EMPTY,
    quality: int = QUALITY,
) -> bytes:
    """The bytes of a `.png`, `.jpg`, `.jpeg` or `.webp` file: pixels, `text`, `attached`, `label`, and nothing else.

    `quality` is a JPEG's or WebP's. A PNG has its text in text chunks, and attachments in chunks of the
    given names. The others have the text named "parameters" as EXIF UserComment, where A1111 looks for
    it, and other text as XMP. A label is XMP in all of them. Raises ImageError for another suffix, or for
    text that has no room.
    """
    form, options = _encoder(suffix, *pixels.shape[1::-1])
    if form != "PNG":
        options = options | dict(quality=quality)
    if attached and form != "PNG":
        raise ImageError(f"the input can be embedded in a PNG only, got {suffix!r}")
    try:
        extra = _png_info(text or {}, attached or {}, label) if form == "PNG" else metadata.pack(text or {}, label)
        file = io.BytesIO()
        to_pil(pixels).save(file, form, **extra, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"a picture of shape {pixels.shape} cannot be a {form} file: {reason(error)}") from error
    return file.getvalue()


def _encoder(suffix: str, width: int, height: int) -> tuple[str, dict]:
    if suffix.lower() not in _ENCODERS:
        raise ImageError(f"a picture's name must end in {', '.join(_ENCODERS)}, got {suffix or 'no such end'}")
    form, longest, options = _ENCODERS[suffix.lower()]
    if max(width, height) > longest:
        raise ImageError(f"a {form} file has at most {longest} pixels a side, got {width} x {height}: make it a .png")
    return form, options


def _png_info(text: Text, attached: Attachments, label: Text) -> dict[str, PngInfo]:
    info = PngInfo()
    if label:
        info.add_itxt(metadata.XMP_CHUNK, metadata.packet({}, label).decode())
    for key, value in text.items():
        info.add_text(key, value)
    for name, data in attached.items():
        info.add(name.encode("ascii"), data)
    return {"pnginfo": info}


def check_writable(path: str | os.PathLike[str], width: int = 1, height: int = 1) -> None:
    """Raise the error of `save` for this name, size and folder, before there is a picture to lose."""
    check_encodable(path, width, height)
    files.check_place(path)


def check_encodable(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raise the error of `encode` for this name and size."""
    _encoder(Path(path).suffix, width, height)


def save(
    pixels: Pixels, path: str | os.PathLike, text: Text | None = None, attached: Attachments | None = None
) -> None:
    """Write a file in the format of its suffix (see `encode`): all of it, or nothing.

    Raises ImageError for pixels that cannot be encoded, and SaveError where the disk refuses.
    """
    files.write(path, encode(pixels, Path(path).suffix, text, attached))
