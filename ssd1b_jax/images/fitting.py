"""Sizes: those that a model can make, and those that follow a picture's own shape."""

import itertools
import math
from numbers import Integral
from typing import Any

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import RequestError
from ssd1b_jax.images.reading import Source, measure

LONGEST = 4096  # of a side
MAX_AREA = 4  # times the model's own; beyond, attention needs more memory than there is


def multiple(config: ModelConfig) -> int:
    """What such sizes are multiples of: a sixteenth of the model's own side or more.

    It is a multiple of one pixel of the UNet's lowest level. For SSD-1B it is 64: SDXL was trained on pictures in
    multiples of 64, and there are few enough such sizes of its area to compile.
    """
    lowest = config.vae.factor * 2 ** (len(config.unet.block_out_channels) - 1)
    return lowest * max(1, round(math.sqrt(area(config)) / (16 * lowest)))


def area(config: ModelConfig) -> int:
    """The model's own, in pixels."""
    return config.defaults.width * config.defaults.height


def fitting(size: tuple[int, int], config: ModelConfig) -> tuple[int, int]:
    """The width and height that keep the aspect of `size`, of at most the model's area.

    Of the sizes around the exact one it is that which cuts off least, and of those nearly alike the largest.
    """
    most, step = area(config), multiple(config)
    widest = LONGEST**2 / most
    ratio = min(max(size[0] / size[1], 1 / widest), widest)
    exact = math.sqrt(most * ratio), math.sqrt(most / ratio)
    sides = [{step * max(1, way(side / step)) for way in (math.floor, math.ceil)} for side in exact]
    sizes = [(w, h) for w, h in itertools.product(*sides) if w * h <= most] or [tuple(min(each) for each in sides)]

    def cost(wide_high: tuple[int, int]) -> float:
        width, height = wide_high
        return abs(math.log(width / height / ratio)) + 0.25 * math.log(most / (width * height))

    return min(sizes, key=cost)


def sides(source: Source, width: Any, height: Any, config: ModelConfig) -> dict[str, int]:
    """The sides that are None, by the picture's own shape; one that is given is not checked. Raises ImageError."""
    if width is not None and height is not None:
        return {}
    size = measure(source)
    if width is height is None:
        return dict(zip(("width", "height"), fitting(size, config), strict=True))
    name, given, ratio = ("width", height, size[0] / size[1]) if width is None else ("height", width, size[1] / size[0])
    if not isinstance(given, Integral) or not 1 <= given <= LONGEST:
        return {name: 1}
    step = multiple(config)
    return {name: step * max(1, round(int(given) * ratio / step))}


def check_size(width: int, height: int, config: ModelConfig) -> None:
    """Raise RequestError for a size that the model can't make."""
    step = config.size_multiple
    for name, value in dict(width=width, height=height).items():
        if value % step:
            down, up = value // step * step, -(-value // step) * step
            near = f"{down} or {up}" if down else up
            raise RequestError(f"{name} must be a multiple of {step}, got {value}: try {near}")
    most = MAX_AREA * area(config)
    if width * height > most:
        raise RequestError(
            f"width x height must be at most {MAX_AREA} times the model's own size, {most} pixels, "
            f"got {width} x {height}"
        )
