"""Results in files: the picture, and its record in the same file or in a sidecar beside it."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ssd1b_jax import files, images
from ssd1b_jax.errors import ImageError
from ssd1b_jax.images import mask_rules, masks
from ssd1b_jax.images.metadata import PARAMETERS, fitting
from ssd1b_jax.records.a1111 import parameters
from ssd1b_jax.records.label import label
from ssd1b_jax.records.output import Output, is_foreign
from ssd1b_jax.records.reading import sidecar_path
from ssd1b_jax.records.record import KEY, SOURCES, Record, dumps
from ssd1b_jax.request import Request

JPEGS = (".jpg", ".jpeg")


class Saved(NamedTuple):
    """The files that were written, and sentences for the user about what had no room in them."""

    picture: Path
    sidecar: Path | None
    notes: tuple[str, ...]


class Encoded(NamedTuple):
    """The bytes of a picture's file, its record, and the names of the texts that had no room."""

    data: bytes
    record: Record
    left_out: frozenset[str]

    @property
    def sidecar(self) -> bytes:
        """The record as a file beside the picture's, which it names by its digest."""
        written = self.record["written"] | dict(file=hashlib.sha256(self.data).hexdigest())
        return f"{dumps({**self.record, 'written': written}, indent=1)}\n".encode()


def save(pixels: images.Pixels, path: str | Path, record: Record, request: Request, output: Output) -> Saved:
    """Write a result's picture, and its record where that is wanted; see `Result.save`."""
    return put(pixels, path, record, request, output)[0]


def put(
    pixels: images.Pixels,
    path: str | Path,
    record: Record,
    request: Request,
    output: Output,
    size: tuple[int, int] | None = None,
    sign: Callable[[bytes], bytes] = bytes,
) -> tuple[Saved, Encoded]:
    """`save`, which gives what is in the file as well. `size` is as for `encode`; `sign` makes the file of it."""
    height, width, _ = pixels.shape
    output.check(path, width, height)
    path = output.place(path)
    try:
        encoded = encode(pixels, path.name, record, request, output, size)
        encoded = encoded._replace(data=sign(encoded.data))
        files.write(path, encoded.data)
    except BaseException:
        if not output.overwrite:  # the empty file that reserved the name
            path.unlink(missing_ok=True)
        raise
    sidecar, notes = None, []
    if PARAMETERS in encoded.left_out:
        notes.append("the settings are too long for a JPEG's EXIF, where other programs look for them")
    if output.sidecar or KEY in encoded.left_out:
        sidecar = _write_sidecar(sidecar_path(path), path.name, encoded)
    if KEY in encoded.left_out:
        lost = f"lost, for {sidecar_path(path)} is of another picture or program: save as PNG or WebP to keep it"
        where = f"in {sidecar}" if sidecar else lost
        notes.append(f"the record of how it was made is too long for a JPEG: it is {where}")
    return Saved(path, sidecar, tuple(notes)), encoded


def encode(
    pixels: images.Pixels,
    name: str,
    record: Record,
    request: Request,
    output: Output,
    size: tuple[int, int] | None = None,
) -> Encoded:
    """The file of a result's picture, in the format of its name. Raises ImageError.

    `size` (width, height) is that of the picture in the file where it is no multiple of the result's: it is covered,
    and the overhang cut.
    """
    enlarged = images.upscale(pixels, output.upscale)
    written: Record = dict(name=name, upscale=output.upscale)
    if size is not None:
        enlarged = images.resize(enlarged, *size)
        written |= dict(width=size[0], height=size[1])
    suffix = Path(name).suffix
    record = {**record, "written": written | dict(sha256=images.sha256(enlarged))}
    text = {PARAMETERS: parameters(record), KEY: dumps(record)} if output.metadata else {}
    about = label(record) if output.metadata else {}
    fits = fitting(text, about) if suffix.lower() in JPEGS else text
    attached = _inputs(record, request) if output.embed_input else None
    data = images.encode(enlarged, suffix, fits, attached, label=about, quality=output.quality)
    return Encoded(data, record, frozenset(text.keys() - fits.keys()))


def _write_sidecar(path: Path, name: str, encoded: Encoded) -> Path | None:
    """The sidecar that was written; None where another program's file, or another picture's, is in its place."""
    if is_foreign(path, name):
        return None
    files.write(path, encoded.sidecar)
    return path


def _inputs(record: Mapping, request: Request) -> dict[str, bytes]:
    """The request's pictures as PNGs of the size made, by their chunks; a mask is first laid over the image."""
    chunks, image = {}, record["request"]["image"]
    for name, chunk in SOURCES.items():
        if not record["request"].get(name):
            continue
        read = mask_rules.read if name == "mask" else images.load
        loaded = read(getattr(request, name))
        if loaded.sha256 != record["request"][name]["sha256"]:
            raise ImageError(f"the {name} has changed since the picture was made, it cannot be embedded")
        laid = masks.lay_over(loaded.pixels, image["height"], image["width"])
        fitted = images.resize(laid, request.width, request.height, request.resize_mode)
        if name == "mask":  # without its greys, which have been decided
            fitted = mask_rules.in_white(masks.white(fitted))
        chunks[chunk] = images.encode(fitted, ".png")
    return chunks
