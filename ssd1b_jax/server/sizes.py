"""Which size a caller gets, of those that are compiled."""

import math
from collections.abc import Sequence

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.request import SIDES
from ssd1b_jax.server.fields import FieldError, Fields
from ssd1b_jax.server.options import Size


def nearest(sizes: Sequence[Size], width: int, height: int) -> Size:
    """The size that is nearest in aspect, then in area."""

    def distance(size: Size) -> tuple[float, float]:
        aspect = abs(math.log(size[0] / size[1] * height / width))
        return round(aspect, 2), abs(math.log(size[0] * size[1] / (width * height)))

    return min(sizes, key=distance)


def exact(fields: Fields, config: ModelConfig, sizes: Sequence[Size], any_size: bool) -> Size:
    """The size that a caller names, the first where none is named.

    `fit` is the one that is most like the picture; of a picture that is not here yet it is the first. Without
    `any_size` it is one of `sizes`. Raises FieldError, and ImageError for the picture.
    """
    given = [fields.settings.get(side) for side in SIDES]
    image = fields.settings.get("image")
    if fields.settings.get("resize_mode") == "fit" and given == [None, None] and isinstance(image, bytes | np.ndarray):
        fitting = images.fitting(images.measure(image), config)
        return fitting if any_size else nearest(sizes, *fitting)
    size = tuple(first if side is None else side for side, first in zip(given, sizes[0], strict=True))
    if size in sizes:
        return size
    for name, side in zip(SIDES, size, strict=True):
        if isinstance(side, bool) or not isinstance(side, int):
            raise FieldError(f"{fields.name(name)} must be a whole number, got {side!r}", fields.name(name))
    if not any_size:
        listed = ", ".join(f"{w}x{h}" for w, h in sizes)
        name = fields.name("width" if given[1] is None or given[0] is not None else "height")
        raise FieldError(f"width and height must be one of {listed}, got {size[0]}x{size[1]}", name, 422)
    return size
