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

import io
import math
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

Pixels = UInt8[np.ndarray, "height width 3"]
Resized = UInt8[np.ndarray, "new_height new_width 3"]
Source = str | os.PathLike | bytes | Image.Image | np.ndarray

MAX_PIXELS = 89_478_485  # 256 MiB of RGB; above it Pillow itself suspects a decompression bomb
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO")  # none runs a program
_TOO_LARGE = f"has more than {MAX_PIXELS // 10**6} megapixels, make it smaller first"
RESIZE_MODES = ("crop", "pad", "stretch")
_JPEG = ("JPEG", {"quality": 95, "subsampling": 0})
_ENCODERS = {".png": ("PNG", {}), ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": ("WEBP", {"quality": 95})}


class ImageError(ValueError):
    """A picture that cannot be used, or a way to use one that does not exist."""


class SaveError(OSError):
    """A picture that could not be written; no file was left or changed."""


class Loaded(NamedTuple):
    pixels: Pixels
    notes: tuple[str, ...]


# In


def load(source: Source) -> Loaded:
    """Reads a path, the bytes of a file, a Pillow image or an array, by the rules above.

    Arrays are uint8, (height, width) or with 3 or 4 (alpha) channels. Raises ImageError.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = "the picture" if isinstance(source, bytes | Image.Image) else str(source)
    with _decoding(name):
        if isinstance(source, Image.Image):
            return _from_picture(source, [])
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            picture, notes = _identify(file), []
            # The other frames of a phone's MPO are depth or gain maps
            if picture.format != "MPO" and getattr(picture, "is_animated", False):
                notes.append("only the first of several frames was used")
            return _from_picture(picture, notes)


def read_text(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text that `save` put into a PNG; other formats have none. Raises ImageError."""
    with _decoding(str(path)), Path(path).open("rb") as file:
        return dict(getattr(_identify(file), "text", {}))


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


def _from_picture(picture: Image.Image, notes: list[str]) -> Loaded:
    pixel_count = math.prod(picture.size)
    if pixel_count == 0:
        raise ImageError("has no pixels")
    if pixel_count > MAX_PIXELS:
        raise ImageError(_TOO_LARGE)
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ImageError("floating-point pixels have no known range, save it with 8 or 16 bits")
    pixels = _from_grey16(picture, notes) if picture.mode.startswith("I") else _from_colour(picture, notes)
    return Loaded(pixels, tuple(notes))


def _from_array(array: np.ndarray) -> Loaded:
    fits = array.ndim == 2 or array.ndim == 3 and array.shape[-1] in (3, 4)
    if array.dtype != np.uint8 or not fits or array.size == 0:
        raise ImageError(
            "an array must be uint8 of shape (height, width), (height, width, 3) or (height, width, 4), "
            f"got {array.dtype} {array.shape}"
        )
    if array.ndim == 2:
        return Loaded(_grey(array), ())
    if array.shape[-1] == 3:
        return Loaded(array.copy(), ())
    notes = []
    return Loaded(_on_white(array[..., :3], array[..., 3], notes), tuple(notes))


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


# Sizes


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


def upscale(pixels: Pixels, factor: int, method: str = "lanczos") -> Resized:
    """Enlarges by a whole factor; `nearest` makes each pixel a square, `lanczos` is smooth."""
    if factor < 1 or method not in ("lanczos", "nearest"):
        raise ImageError(f"a factor of at least 1 and lanczos or nearest are needed, got {factor} and {method!r}")
    if method == "nearest":
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width, _ = pixels.shape
    return resize(pixels, width * factor, height * factor, "stretch")


def _lanczos(pixels: Pixels, width: int, height: int, box: tuple[float, float, float, float] | None = None) -> Resized:
    return np.array(to_pil(pixels).resize((width, height), Image.Resampling.LANCZOS, box))


# To the model and back


def to_model(pixels: UInt8[np.ndarray, "*batch height width 3"]) -> Float32[np.ndarray, "*batch height width 3"]:
    """Pixels to an image in [-1, 1], bit for bit as diffusers scales them."""
    return 2 * (pixels.astype(np.float32) / 255) - 1


def to_pixels(image: Float[np.ndarray, "*batch height width 3"]) -> UInt8[np.ndarray, "*batch height width 3"]:
    """An image to pixels, clipped to [-1, 1] and rounded as diffusers does (halves to even).

    Raises ImageError if values are not finite, for as pixels they would pass for black.
    """
    image = image.astype(np.float32)
    bad = image.size - np.isfinite(image).sum()
    if bad:
        raise ImageError(f"{bad} of the picture's {image.size} values are not finite, use dtype bfloat16 or float32")
    return ((image / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)


def to_pil(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels)


# Out


def encode(pixels: Pixels, suffix: str, text: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a `.png`, `.jpg`, `.jpeg` or `.webp` file: pixels, for a PNG also `text`, and nothing else.

    JPEG and WebP have quality 95. Raises ImageError for another suffix, or text where it has no place.
    """
    if suffix.lower() not in _ENCODERS:
        raise ImageError(f"a picture's name must end in {', '.join(_ENCODERS)}, got {suffix!r}")
    form, options = _ENCODERS[suffix.lower()]
    if text and form != "PNG":
        raise ImageError(f"text goes into a PNG only, got {suffix!r}")
    info, file = PngInfo(), io.BytesIO()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    try:
        to_pil(pixels).save(file, form, pnginfo=info, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"a picture of shape {pixels.shape} cannot be a {form} file: {_reason(error)}") from error
    return file.getvalue()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise what `save` would raise for this name and folder, before there is a picture to lose."""
    path = Path(path)
    if path.suffix.lower() not in _ENCODERS:
        raise ImageError(f"a picture's name must end in {', '.join(_ENCODERS)}, got {path.name!r}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "is a folder" if path.is_dir() else "its folder does not exist or is not writable"
        raise SaveError(f"{path}: cannot be saved: {reason}")


def save(pixels: Pixels, path: str | os.PathLike[str], text: Mapping[str, str] | None = None) -> None:
    """Writes a file in the format of its suffix (see `encode`): all of it, or nothing.

    It is written under another name in the same folder, then renamed; an older file is replaced.
    Raises ImageError for what cannot be encoded, SaveError for what the disk refuses.
    """
    path = Path(path)
    data = encode(pixels, path.suffix, text)
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
        raise SaveError(f"{path}: cannot be saved: {_reason(error)}") from error
