"""Inpainting at full resolution: the part round a mask is cut out, made at the model's size, and put back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from ssd1b_jax import images
from ssd1b_jax.images import mask_rules, masks
from ssd1b_jax.server.options import Size

MAX_BLUR = 64  # pixels, as in A1111; each is a pass over the part


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a picture. `box` is left, top, right and bottom in pixels; the mask is that of the whole picture."""

    box: tuple[int, int, int, int]
    whole: images.Pixels
    remade: masks.Mask
    blur: int

    @property
    def size(self) -> Size:
        left, top, right, bottom = self.box
        return right - left, bottom - top

    @property
    def image(self) -> images.Pixels:
        return self.whole[self._slices]

    @property
    def mask(self) -> masks.Mask:
        return self.remade[self._slices]

    @property
    def bytes_held(self) -> int:
        return self.whole.nbytes + self.remade.nbytes

    def paste(self, pixels: images.Pixels) -> images.Resized:
        """The whole picture with this part in it, where the mask is white; all else stays to the byte."""
        left, top, right, bottom = self.box
        around = slice(max(top - 1, 0), bottom + 1), slice(max(left - 1, 0), right + 1)  # whence the edge fades
        changed = self.whole.copy()
        changed[self._slices] = images.resize(pixels, *self.size, "stretch")
        share = masks.soften(self.remade[around], self.blur)
        changed[around] = masks.blend(self.whole[around], changed[around], share)
        return changed

    @property
    def _slices(self) -> tuple[slice, slice]:
        left, top, right, bottom = self.box
        return slice(top, bottom), slice(left, right)


def region(
    image: images.Source, mask: images.Source, invert: bool, blur: int, padding: int, size: Size
) -> Region | None:
    """The part round what a mask has white, with the aspect of `size`; None where there is nothing white.

    Raises ImageError.
    """
    whole = images.load(image).pixels
    laid = masks.lay_over(mask_rules.read(mask).pixels, *whole.shape[:2])
    remade = masks.white(laid) != invert
    if not remade.any():
        return None
    height, width = remade.shape
    left, right = _padded(remade.any(axis=0), padding)
    top, bottom = _padded(remade.any(axis=1), padding)
    aspect = size[0] / size[1]
    left, right = _widened(left, right, round((bottom - top) * aspect), width)
    top, bottom = _widened(top, bottom, round((right - left) / aspect), height)
    return Region((left, top, right, bottom), whole, remade, blur)


def _padded(remade: Bool[np.ndarray, " length"], padding: int) -> tuple[int, int]:
    """The span of what is remade along one side, and the padding round it."""
    places = np.flatnonzero(remade)
    return max(int(places[0]) - padding, 0), min(int(places[-1]) + 1 + padding, len(remade))


def _widened(start: int, end: int, length: int, most: int) -> tuple[int, int]:
    """A span of at least `length` round another, moved and cut to lie within 0 and `most`."""
    wanted = max(end - start, min(length, most))
    first = start - (wanted - (end - start)) // 2
    first = min(max(first, 0), most - wanted)
    return first, first + wanted
