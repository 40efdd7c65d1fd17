"""The input pictures of requests, at the size they are remade in."""

import os
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ssd1b_jax import images, records
from ssd1b_jax.images import mask_rules, masks
from ssd1b_jax.request import Request

MISSED = 0.05  # of a side
KEPT = 8  # pictures; one of 1024 pixels is 3 MB, and 4 more with a mask


class InputPicture(NamedTuple):
    """A request's input, grey where there is none.

    Of a masked one `share` is how much of each pixel is remade, else None. `remade` are the latents that are.
    """

    pixels: images.Pixels
    remade: Bool[np.ndarray, "rows columns 1"]
    share: masks.Share | None
    notes: tuple[str, ...]
    sources: dict[str, records.Record]


class InputPictures:
    """Those of resolved requests; the last few are kept, as many requests share one.

    So a file that changes while it is in use may be taken as it was.
    """

    def __init__(self, factor: int):
        """`factor`: pixels along a latent's side."""
        self._factor = factor
        self._kept: dict[Hashable, tuple[InputPicture, Request]] = {}

    def get(self, request: Request) -> InputPicture:
        """Raises ImageError."""
        size = request.width, request.height, request.resize_mode
        key = _identity(request.image), _identity(request.mask), request.mask_blur, request.mask_invert, size
        # The request is kept too: an object that is gone may give its identity to another.
        picture, kept = self._kept.pop(key, None) or (self._make(request, *size), request)
        self._kept[key] = picture, kept
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return picture

    def _make(self, request: Request, *size) -> InputPicture:
        remade = np.ones((request.height // self._factor, request.width // self._factor, 1), bool)
        if request.image is None:
            return InputPicture(np.full((request.height, request.width, 3), 128, np.uint8), remade, None, (), {})
        loaded = images.load(request.image)
        pixels, notes = images.resize(loaded.pixels, *size), [*loaded.notes, *_cut_off(loaded.pixels, *size)]
        share, sources = None, {"image": records.source(request.image, loaded)}
        if request.mask is not None:
            given = mask_rules.read(request.mask)
            sources["mask"] = records.source(request.mask, given)
            notes += [f"the mask: {note}" for note in given.notes]
            mask = masks.fit(given.pixels, loaded.pixels, *size, request.mask_invert)
            share, remade = masks.soften(mask, request.mask_blur), masks.cells(mask, self._factor)
            if not mask.any():
                color = "white" if request.mask_invert else "black"
                notes.append(f"the mask is {color} all over, so nothing was remade")
        return InputPicture(pixels, remade, share, tuple(notes), sources)


def _cut_off(pixels: images.Pixels, width: int, height: int, mode: str) -> list[str]:
    """A note where a crop leaves out a part of the image that can be missed."""
    old_height, old_width, _ = pixels.shape
    ratio = old_width * height / (old_height * width)
    share, side = (1 - 1 / ratio, "width") if ratio > 1 else (1 - ratio, "height")
    if mode not in images.COVERING or share < MISSED:
        return []
    keeping = "fit, pad or stretch" if mode == "crop" else "pad or stretch"
    return [f"{share:.0%} of the image's {side} was cut off: resize_mode {keeping} keeps it"]


def _identity(source: images.Source | None) -> Hashable:
    """What tells sources apart: arrays and Pillow's images by being another object."""
    return source if source is None or isinstance(source, str | bytes | os.PathLike) else id(source)
