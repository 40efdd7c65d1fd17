"""Results in files: the picture, and what made it in the same file or in a sidecar beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssd1b_jax import files, images, records
from ssd1b_jax.errors import ImageError, RecordError, SaveError
from ssd1b_jax.images import masks
from ssd1b_jax.images.metadata import PARAMETERS, fitting
from ssd1b_jax.records.record import KEY, SOURCES, Record, sidecar_path
from ssd1b_jax.request import Request


class Saved(NamedTuple):
    """The files that were written, and sentences for the user about what had no room in them."""

    picture: Path
    sidecar: Path | None
    notes: tuple[str, ...]


def save(
    pixels: images.Pixels,
    path: str | Path,
    record: Record,
    request: Request,
    *,
    upscale: int = 1,
    metadata: bool = True,
    sidecar: bool = False,
    embed_input: bool = False,
) -> Saved:
    """Write a result's picture, and what made it where it is wanted; see `Result.save`."""
    path, enlarged = Path(path), images.upscale(pixels, upscale)
    height, width, _ = enlarged.shape
    check(path, width, height, metadata=metadata, sidecar=sidecar, embed_input=embed_input)
    written = dict(name=path.name, upscale=upscale, sha256=images.sha256(enlarged))
    record = {**record, "written": written}
    text = {PARAMETERS: records.parameters(record), KEY: records.dumps(record)} if metadata else {}
    fits = fitting(text) if path.suffix.lower() in (".jpg", ".jpeg") else text
    images.save(enlarged, path, fits, _prepared(record, request) if embed_input else None)
    left_out, beside, notes = text.keys() - fits.keys(), None, []
    if PARAMETERS in left_out:
        notes.append("the settings are too long for a JPEG's EXIF, where other programs look for them")
    if sidecar or KEY in left_out:
        beside = sidecar_path(path)
        if _is_anothers(beside):
            kept = f"lost, for {beside} is another program's file: save as PNG or WebP to keep it"
            beside = None
        else:
            kept = f"in {beside}"
            files.write(beside, f"{records.dumps(record, indent=1)}\n".encode())
    if KEY in left_out:
        notes.append(f"the record of how it was made is too long for a JPEG: it is {kept}")
    return Saved(path, beside, tuple(notes))


def check(
    path: str | Path,
    width: int = 1,
    height: int = 1,
    *,
    metadata: bool = True,
    sidecar: bool = False,
    embed_input: bool = False,
) -> None:
    """Raise what `save` would raise for this name, size, folder and choice, before there is a picture to lose."""
    images.check_writable(path, width, height)
    if embed_input and not metadata:
        raise ImageError("the input is embedded along with the metadata: leave out one of the two wishes")
    if embed_input and Path(path).suffix.lower() != ".png":
        raise ImageError(f"the input can be embedded in a PNG only, got {Path(path).name!r}")
    if sidecar and _is_anothers(beside := sidecar_path(path)):
        raise SaveError(
            f"{beside}: cannot be saved: a file is there that is no record of a picture: move it away, or choose "
            "another name for the picture"
        )


def _is_anothers(sidecar: Path) -> bool:
    """Whether something is in a sidecar's place that `save` did not write."""
    if not sidecar.exists():
        return False
    try:
        records.read(sidecar)
    except RecordError:
        return True
    return False


def _prepared(record: Mapping[str, Any], request: Request) -> dict[str, bytes]:
    """The request's pictures as PNGs of the size made; a mask is first laid over the image."""
    chunks, image = {}, record["request"]["image"]
    for name, chunk in SOURCES.items():
        if not record["request"].get(name):
            continue
        loaded = images.load(getattr(request, name))
        if loaded.sha256 != record["request"][name]["sha256"]:
            raise ImageError(f"the {name} has changed since the picture was made, it cannot be embedded")
        laid = masks.lay_over(loaded.pixels, image["height"], image["width"])
        fitted = images.resize(laid, request.width, request.height, request.resize_mode)
        chunks[chunk] = images.encode(fitted, ".png")
    return chunks
