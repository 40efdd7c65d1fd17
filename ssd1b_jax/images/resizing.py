"""Pixels of another size, and as the model's values.

`pixels` are uint8 sRGB (height, width, 3). An `image` is float of the same shape, in [-1, 1].
"""

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from ssd1b_jax.errors import ImageError

Pixels = UInt8[np.ndarray, "height width 3"]
Resized = UInt8[np.ndarray, "new_height new_width 3"]

MAX_UPSCALE = 8
RESIZE_MODES = ("crop", "fit", "pad", "stretch")
COVERING = ("crop", "fit")  # modes that cut off what overhangs


def resize(pixels: Pixels, width: int, height: int, mode: str = "crop") -> Resized:
    """Pixels of exactly this size (Lanczos). A picture that has it is returned as it is.

    - `crop` covers the size and cuts the overhang, equally on both sides.
    - `fit` is a crop to a size that was chosen by `fitting.fitting`, so that little or nothing is cut off.
    - `pad` fits into the size and repeats the border pixels outwards. So there is no seam and no new colour
      that the model could take for a part of the picture.
    - `stretch` ignores the aspect ratio, as diffusers does.
    """
    if mode not in RESIZE_MODES:
        raise ImageError(f"resize_mode must be one of {', '.join(RESIZE_MODES)}, got {mode!r}")
    if width < 1 or height < 1:
        raise ImageError(f"width and height must be at least 1, got {width}x{height}")
    old_height, old_width, _ = pixels.shape
    if (old_width, old_height) == (width, height):
        return pixels
    if mode == "stretch":
        return _lanczos(pixels, width, height)
    ratios = width / old_width, height / old_height
    if mode in COVERING:
        left = max(0, old_width - width / max(ratios)) / 2
        top = max(0, old_height - height / max(ratios)) / 2
        return _lanczos(pixels, width, height, (left, top, old_width - left, old_height - top))
    inner_width = max(1, round(old_width * min(ratios)))
    inner_height = max(1, round(old_height * min(ratios)))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    rest = (top, height - inner_height - top), (left, width - inner_width - left), (0, 0)
    return np.pad(_lanczos(pixels, inner_width, inner_height), rest, mode="edge")


def upscale(pixels: Pixels, factor: int) -> Resized:
    """Enlarge by a whole factor (Lanczos)."""
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
