"""Picture files, Pillow images and arrays to pixels: where pictures enter.

`pixels` are uint8 sRGB (height, width, 3). The rules below settle everything else that a file can hold.
A rule that changes what is seen leaves a note, a sentence to show to the user.

- Orientation (EXIF) is applied. Of several frames the first is taken (note).
- Transparency goes on white (note).
- An embedded colour profile is converted to sRGB. Without one, colours are taken as sRGB; CMYK is
  converted by the plain formula (note), and YCbCr, Lab and HSV by Pillow's.
- HEIC is read where pillow-heif is installed.
- 16 bits become 8: grey by value / 257, rounded, and colour by its high byte.
- Grey of 32 bits is read as 16, and refused beyond. Floating point is refused, since it states no range.
"""

import hashlib
import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps, features

from ssd1b_jax.errors import ImageError
from ssd1b_jax.images import metadata
from ssd1b_jax.images.resizing import Pixels

Source = str | os.PathLike | bytes | Image.Image | np.ndarray

MAX_PIXELS = 89_478_485  # 256 MiB of RGB; above it Pillow itself suspects a decompression bomb
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO")  # none runs a program
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEAD = 64  # bytes, which say what a file is
URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # Path has made one slash of two
SIDEWAYS = (5, 6, 7, 8)  # values of EXIF's orientation
_PixelsAndAlpha = tuple[Pixels, UInt8[np.ndarray, "height width"] | None]
_TOO_LARGE = f"has more than {MAX_PIXELS // 10**6} megapixels, make it smaller first"


class Loaded(NamedTuple):
    """A picture that was read. `sha256` is that of the file's bytes, or of the pixels where there is no file."""

    pixels: Pixels
    notes: tuple[str, ...]
    sha256: str


class Layers(NamedTuple):
    """Colours as they are stored, and how much of each is seen, None where all is. `sha256` is as in Loaded."""

    pixels: Pixels
    alpha: UInt8[np.ndarray, "height width"] | None
    notes: tuple[str, ...]
    sha256: str


def load(source: Source) -> Loaded:
    """Read a path, the bytes of a file, a Pillow image or an array, by the rules above.

    Arrays are uint8, or bool where True is white: (height, width), or with 1, 3 or 4 (alpha) channels.
    Raises ImageError.
    """
    layers = load_layers(source)
    notes = layers.notes if layers.alpha is None else (*layers.notes, "transparent parts were put on white")
    return Loaded(_on_white(layers.pixels, layers.alpha), notes, layers.sha256)


def load_layers(source: Source) -> Layers:
    """`load` without putting anything on white."""
    notes, data = [], None
    name = str(source) if isinstance(source, str | os.PathLike) else "the picture"
    with _decoding(name):
        if isinstance(source, np.ndarray):
            pixels, alpha = _from_array(source)
        elif isinstance(source, Image.Image):
            pixels, alpha = _from_picture(source, notes)
        else:
            data = source if isinstance(source, bytes) else _path(source).read_bytes()
            picture = _identify(io.BytesIO(data))
            # The other frames of a phone's MPO are depth or gain maps
            if picture.format != "MPO" and getattr(picture, "is_animated", False):
                notes.append("only the first of several frames was used")
            pixels, alpha = _from_picture(picture, notes)
    alpha = None if alpha is None or alpha.min() == 255 else alpha
    digest = sha256(_on_white(pixels, alpha)) if data is None else hashlib.sha256(data).hexdigest()
    return Layers(pixels, alpha, tuple(notes), digest)


def probe(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """The width and height of a picture's file, or of the bytes of one; no pixel is decoded. Raises ImageError."""
    with _opened(source) as file:
        return _identify(file).size


def measure(source: Source) -> tuple[int, int]:
    """The width and height that `load` gives, with the orientation applied; no pixel is decoded. Raises ImageError."""
    if isinstance(source, np.ndarray):
        with _decoding("the picture"):
            _check_array(source)
        return source.shape[1], source.shape[0]
    if isinstance(source, Image.Image):
        return _upright(source)
    with _opened(source) as file:
        return _upright(_identify(file))


def _upright(picture: Image.Image) -> tuple[int, int]:
    width, height = picture.size
    return (height, width) if picture.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS else (width, height)


def sha256(pixels: Pixels) -> str:
    """The digest of a picture without its file: of "HEIGHT WIDTH 3", a line feed, and the pixels row by row."""
    shape = " ".join(str(side) for side in pixels.shape)
    return hashlib.sha256(f"{shape}\n".encode() + pixels.tobytes()).hexdigest()


def read_text(source: str | os.PathLike[str] | bytes) -> dict[str, str]:
    """The text in a file, or in the bytes of one, where `writing.save` puts it. Raises ImageError."""
    with _opened(source) as file:
        picture = _identify(file)
        if picture.format == "PNG":
            texts = picture.text.items()
            return {key: str(value) for key, value in texts if key != metadata.XMP_CHUNK}
        exif = picture.getexif().get_ifd(metadata.EXIF_IFD)
        return metadata.unpack(exif.get(metadata.USER_COMMENT), picture.info.get("xmp"))


def read_label(source: str | os.PathLike[str] | bytes) -> dict[str, str]:
    """What IPTC's XMP in a file says of how the picture was made; see `records.label`. Raises ImageError."""
    with _opened(source) as file:
        picture = _identify(file)
        picture.load()  # in a PNG it may come last
        xmp = picture.info.get("xmp")
        return metadata.properties(xmp, metadata.IPTC) if xmp else {}


def read_attached(source: str | os.PathLike[str] | bytes) -> dict[str, bytes]:
    """The attachments of a PNG by the names of their chunks; nothing for other formats. Raises ImageError."""
    with _opened(source) as file:
        picture = _identify(file)
        picture.load()  # to the last chunk
        return {chunk[0].decode(): chunk[1] for chunk in getattr(picture, "private_chunks", ())}


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes) -> Iterator[BinaryIO]:
    """A file, or the bytes of one. Raises ImageError, also for what is read from it."""
    is_data = isinstance(source, bytes)
    name = "the picture" if is_data else str(source)
    with _decoding(name), io.BytesIO(source) if is_data else _path(source).open("rb") as file:
        yield file


def _path(source: str | os.PathLike[str]) -> Path:
    if URL.match(os.fspath(source)):
        raise ImageError("it is an address, and pictures are read from files: download it first")
    return Path(source)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn every failure into an ImageError of one sentence: damaged files make Pillow raise nearly anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged metadata and large pictures
            yield
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a known format ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {_TOO_LARGE}") from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except Exception as error:
        raise ImageError(f"{name}: cannot be read: {reason(error)}") from error


def reason(error: Exception) -> str:
    """An error of Pillow or the system, to follow a colon in our sentence."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def _identify(file: io.BufferedIOBase) -> Image.Image:
    """A picture with its size known and its pixels not yet decoded."""
    head = file.read(HEAD)
    if not head:
        raise ImageError("the file is empty")
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and b"avif" not in head:
        _add_heif()
        return Image.open(file, formats=("HEIF",))
    if head[4:8] == b"ftyp" and b"avif" in head and not features.check("avif"):
        raise ImageError("it is AVIF, which this build of Pillow can't read: save it as PNG, or install Pillow's wheel")
    return Image.open(file, formats=FORMATS)


def _add_heif() -> None:
    """Teach Pillow to read HEIC, as phones save photographs."""
    try:
        import pillow_heif
    except ImportError:
        remedy = "run pip install 'ssd1b_jax[heic]', or save it as JPEG"
        raise ImageError(f"it is HEIC, which needs pillow-heif: {remedy}") from None
    pillow_heif.register_heif_opener(thumbnails=False)


def _from_picture(picture: Image.Image, notes: list[str]) -> _PixelsAndAlpha:
    pixel_count = math.prod(picture.size)
    if pixel_count == 0:
        raise ImageError("has no pixels")
    if pixel_count > MAX_PIXELS:
        raise ImageError(_TOO_LARGE)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ImageError("floating-point pixels have no known range, save it with 8 or 16 bits")
    return _from_grey16(picture) if picture.mode.startswith("I") else _from_colour(picture, notes)


def _check_array(array: np.ndarray) -> None:
    fits = array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (1, 3, 4)
    if array.dtype not in (np.uint8, np.bool_) or not fits or array.size == 0:
        raise ImageError(
            "an array must be uint8 or bool of shape (height, width) or (height, width, 1, 3 or 4), "
            f"got {array.dtype} {array.shape}"
        )


def _from_array(array: np.ndarray) -> _PixelsAndAlpha:
    _check_array(array)
    if array.dtype == np.bool_:
        array = np.where(array, 255, 0).astype(np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[-1] == 1:
        return _grey(array[..., 0]), None
    return array[..., :3].copy(), array[..., 3].copy() if array.shape[-1] == 4 else None


def _from_grey16(picture: Image.Image) -> _PixelsAndAlpha:
    values, transparent = np.asarray(picture), picture.info.get("transparency")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"grey values must be in [0, 65535], got {low} to {high}")
    pixels = _grey(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    alpha = None if transparent is None else np.where(values == transparent, 0, 255).astype(np.uint8)
    return pixels, alpha


def _from_colour(picture: Image.Image, notes: list[str]) -> _PixelsAndAlpha:
    profile, alpha = picture.info.get("icc_profile"), None
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        picture = picture.convert("L") if picture.mode in ("L", "LA") else rgba.convert("RGB")
    if picture.mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("RGB")
    return np.array(_to_srgb(picture, profile, notes)), alpha


def _to_srgb(picture: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if picture.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
                picture = picture.convert("RGB")  # grey that was saved with the profile of its colour space
            return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            notes.append("the colour profile could not be used, colours may be off")
    elif picture.mode == "CMYK":
        notes.append("CMYK without a colour profile, colours are approximate")
    return picture.convert("RGB")


def _grey(values: UInt8[np.ndarray, "height width"]) -> Pixels:
    return np.repeat(values[..., None], 3, axis=-1)


def _on_white(pixels: Pixels, alpha: UInt8[np.ndarray, "height width"] | None) -> Pixels:
    """Colours mixed with white as stored (gamma-encoded), as every browser shows them."""
    if alpha is None:
        return pixels
    alpha = alpha[..., None].astype(np.uint16)
    return ((pixels * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
