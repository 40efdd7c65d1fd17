"""Files and pixels to float images in [-1, 1], and back: where pictures enter and leave.

The one file that knows Pillow. `pixels` are uint8 sRGB (height, width, 3); an `image` is float of
the same shape. What a file holds besides is settled by these rules; those that change what is seen
leave a note, a sentence to show to the user:

- orientation (EXIF) is applied; of several frames the first is taken (note);
- transparency goes on white (note);
- an embedded colour profile is converted to sRGB; without one, colours are taken as sRGB, and CMYK
  by the plain formula (note), YCbCr, Lab and HSV by Pillow's;
- 16 bits become 8: grey by value / 257, rounded; colour by its high byte; grey of 32 bits is read
  as 16, and refused beyond; floating point is refused, for it states no range.
"""

import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from ssd1b_jax import files
from ssd1b_jax.errors import ImageError
from ssd1b_jax.images import metadata

Pixels = UInt8[np.ndarray, "height width 3"]
Resized = UInt8[np.ndarray, "new_height new_width 3"]
Source = str | os.PathLike | bytes | Image.Image | np.ndarray
Text = Mapping[str, str]
Chunks = Mapping[str, bytes]

MAX_PIXELS = 89_478_485  # 256 MiB of RGB; above it Pillow itself suspects a decompression bomb
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO")  # none runs a program
_TOO_LARGE = f"has more than {MAX_PIXELS // 10**6} megapixels, make it smaller first"
MAX_UPSCALE = 8
RESIZE_MODES = ("crop", "pad", "stretch")
QUALITY = 95
_JPEG = ("JPEG", 65_500, {"subsampling": 0})  # format, longest side in pixels, how it is written
_ENCODERS = {".png": ("PNG", 2**31 - 1, {}), ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": ("WEBP", 16_383, {})}


class Loaded(NamedTuple):
    """`sha256` is that of a file's bytes, or of the pixels where there was no file."""

    pixels: Pixels
    notes: tuple[str, ...]
    sha256: str


def load(source: Source) -> Loaded:
    """Reads a path, the bytes of a file, a Pillow image or an array, by the rules above.

    Arrays are uint8, (height, width) or with 3 or 4 (alpha) channels. Raises ImageError.
    """
    notes, data = [], None
    name = str(source) if isinstance(source, str | os.PathLike) else "the picture"
    with _decoding(name):
        if isinstance(source, np.ndarray):
            pixels = _from_array(source, notes)
        elif isinstance(source, Image.Image):
            pixels = _from_picture(source, notes)
        else:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            picture = _identify(io.BytesIO(data))
            # The other frames of a phone's MPO are depth or gain maps
            if picture.format != "MPO" and getattr(picture, "is_animated", False):
                notes.append("only the first of several frames was used")
            pixels = _from_picture(picture, notes)
    return Loaded(pixels, tuple(notes), sha256(pixels) if data is None else hashlib.sha256(data).hexdigest())


def sha256(pixels: Pixels) -> str:
    """Of a picture without its file: of the words "HEIGHT WIDTH 3", a line feed, and the pixels row by row."""
    shape = " ".join(str(side) for side in pixels.shape)
    return hashlib.sha256(f"{shape}\n".encode() + pixels.tobytes()).hexdigest()


def read_text(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that `save` put into a file, or others put there in the same way. Raises ImageError."""
    with _decoding(str(path)), Path(path).open("rb") as file:
        picture = _identify(file)
        if picture.format == "PNG":
            return {key: str(value) for key, value in picture.text.items()}
        exif = picture.getexif().get_ifd(metadata.EXIF_IFD)
        return metadata.unpack(exif.get(metadata.USER_COMMENT), picture.info.get("xmp"))


def read_attached(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """What `save` attached to a PNG, by the names of its chunks; other formats have nothing. Raises ImageError."""
    with _decoding(str(path)), Path(path).open("rb") as file:
        picture = _identify(file)
        picture.load()  # to the last chunk
        return {chunk[0].decode(): chunk[1] for chunk in getattr(picture, "private_chunks", ())}


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Puts every failure into an ImageError's sentence; damaged files make Pillow raise nearly anything."""
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
        raise ImageError(f"{name}: cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _identify(file: io.BufferedIOBase) -> Image.Image:
    """A picture with its size known and its pixels not yet decoded."""
    if not file.read(1):
        raise ImageError("the file is empty")
    file.seek(0)
    return Image.open(file, formats=FORMATS)


def _from_picture(picture: Image.Image, notes: list[str]) -> Pixels:
    pixel_count = math.prod(picture.size)
    if pixel_count == 0:
        raise ImageError("has no pixels")
    if pixel_count > MAX_PIXELS:
        raise ImageError(_TOO_LARGE)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ImageError("floating-point pixels have no known range, save it with 8 or 16 bits")
    return _from_grey16(picture, notes) if picture.mode.startswith("I") else _from_colour(picture, notes)


def _from_array(array: np.ndarray, notes: list[str]) -> Pixels:
    fits = array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (3, 4)
    if array.dtype != np.uint8 or not fits or array.size == 0:
        raise ImageError(
            "an array must be uint8 of shape (height, width), (height, width, 3) or (height, width, 4), "
            f"got {array.dtype} {array.shape}"
        )
    if array.ndim == 2:
        return _grey(array)
    return array.copy() if array.shape[-1] == 3 else _on_white(array[..., :3], array[..., 3], notes)


def _from_grey16(picture: Image.Image, notes: list[str]) -> Pixels:
    values, transparent = np.asarray(picture), picture.info.get("transparency")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"grey values must be in [0, 65535], got {low} to {high}")
    pixels = _grey(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if transparent is None:
        return pixels
    return _on_white(pixels, np.where(values == transparent, 0, 255).astype(np.uint8), notes)


def _from_colour(picture: Image.Image, notes: list[str]) -> Pixels:
    profile, alpha = picture.info.get("icc_profile"), None
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        picture = picture.convert("L") if picture.mode in ("L", "LA") else rgba.convert("RGB")
    if picture.mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("RGB")
    pixels = np.array(_to_srgb(picture, profile, notes))
    return pixels if alpha is None else _on_white(pixels, alpha, notes)


def _to_srgb(picture: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            notes.append("the colour profile could not be used, colours may be off")
    elif picture.mode == "CMYK":
        notes.append("CMYK without a colour profile, colours are approximate")
    return picture.convert("RGB")


def _grey(values: UInt8[np.ndarray, "height width"]) -> Pixels:
    return np.repeat(values[..., None], 3, axis=-1)


def _on_white(pixels: Pixels, alpha: UInt8[np.ndarray, "height width"], notes: list[str]) -> Pixels:
    """Colours mixed with white as stored (gamma-encoded), as every browser shows them."""
    if alpha.min() == 255:
        return pixels.copy()
    notes.append("transparent parts were put on white")
    alpha = alpha[..., None].astype(np.uint16)
    return ((pixels * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


# Sizes, and the model's values


def resize(pixels: Pixels, width: int, height: int, mode: str = "crop") -> Resized:
    """Pixels of exactly this size (Lanczos). A picture that has it is returned as it is.

    - `crop` covers the size and cuts what hangs over, equally on both sides;
    - `pad` fits into the size and repeats the border pixels outwards: no seam and no new colour
      for the model to take for a part of the picture;
    - `stretch` ignores the aspect ratio, as diffusers does.
    """
    if mode not in RESIZE_MODES:
        raise ImageError(f"resize_mode must be one of {', '.join(RESIZE_MODES)}, got {mode!r}")
    if width < 1 or height < 1:
        raise ImageError(f"width and height must be at least 1, got {width}x{height}")
    had_height, had_width, _ = pixels.shape
    if (had_width, had_height) == (width, height):
        return pixels
    if mode == "stretch":
        return _lanczos(pixels, width, height)
    ratios = width / had_width, height / had_height
    if mode == "crop":
        left = max(0, had_width - width / max(ratios)) / 2
        top = max(0, had_height - height / max(ratios)) / 2
        return _lanczos(pixels, width, height, (left, top, had_width - left, had_height - top))
    inner_width = max(1, round(had_width * min(ratios)))
    inner_height = max(1, round(had_height * min(ratios)))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    rest = (top, height - inner_height - top), (left, width - inner_width - left), (0, 0)
    return np.pad(_lanczos(pixels, inner_width, inner_height), rest, mode="edge")


def upscale(pixels: Pixels, factor: int) -> Resized:
    """Enlarges by a whole factor (Lanczos)."""
    if not 1 <= factor <= MAX_UPSCALE:
        raise ImageError(f"upscale must be a whole number from 1 to {MAX_UPSCALE}, got {factor}")
    height, width, _ = pixels.shape
    return resize(pixels, width * factor, height * factor, "stretch")


def _lanczos(pixels: Pixels, width: int, height: int, box: tuple[float, float, float, float] | None = None) -> Resized:
    return np.array(to_pil(pixels).resize((width, height), Image.Resampling.LANCZOS, box))


def to_model(pixels: UInt8[np.ndarray, "*batch height width 3"]) -> Float32[np.ndarray, "*batch height width 3"]:
    """Pixels to an image in [-1, 1], bit for bit as diffusers scales them."""
    return 2 * (pixels.astype(np.float32) / 255) - 1


def to_pil(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels)


# Out


def encode(
    pixels: Pixels,
    suffix: str,
    text: Text | None = None,
    attached: Chunks | None = None,
    *,
    quality: int = QUALITY,
) -> bytes:
    """The bytes of a `.png`, `.jpg`, `.jpeg` or `.webp` file: pixels, `text` and `attached`, and nothing else.

    `quality` is a JPEG's or WebP's. A PNG has text in its text chunks, and what is attached in chunks
    of the names given. The others have the text named "parameters" as EXIF UserComment, where A1111
    looks for it, and other text as XMP. Raises ImageError for another suffix, or what has no room.
    """
    form, options = _encoder(suffix, *pixels.shape[1::-1])
    if form != "PNG":
        options = options | dict(quality=quality)
    if attached and form != "PNG":
        raise ImageError(f"the input can be embedded in a PNG only, got {suffix!r}")
    try:
        said = _png_info(text or {}, attached or {}) if form == "PNG" else metadata.pack(text or {})
        file = io.BytesIO()
        to_pil(pixels).save(file, form, **said, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"a picture of shape {pixels.shape} cannot be a {form} file: {_reason(error)}") from error
    return file.getvalue()


def _encoder(suffix: str, width: int, height: int) -> tuple[str, dict]:
    if suffix.lower() not in _ENCODERS:
        raise ImageError(f"a picture's name must end in {', '.join(_ENCODERS)}, got {suffix or 'no such end'}")
    form, longest, options = _ENCODERS[suffix.lower()]
    if max(width, height) > longest:
        raise ImageError(f"a {form} file has at most {longest} pixels a side, got {width} x {height}: make it a .png")
    return form, options


def _png_info(text: Text, attached: Chunks) -> dict[str, PngInfo]:
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    for name, data in attached.items():
        info.add(name.encode("ascii"), data)
    return {"pnginfo": info}


def check_writable(path: str | os.PathLike[str], width: int = 1, height: int = 1) -> None:
    """Raise what `save` would raise for this name, size and folder, before there is a picture to lose."""
    _encoder(Path(path).suffix, width, height)
    files.check_place(path)


def save(pixels: Pixels, path: str | os.PathLike, text: Text | None = None, attached: Chunks | None = None) -> None:
    """Writes a file in the format of its suffix (see `encode`): all of it, or nothing.

    Raises ImageError for what cannot be encoded, SaveError for what the disk refuses.
    """
    files.write(path, encode(pixels, Path(path).suffix, text, attached))
