"""Says what is in a picture, without a network: which thing, in which style and color, where, on what.

The thing is cut out by its difference from the picture's rim, brought to one size, and compared
with every drawing in every style; the nearest is that with the least mean squared difference.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from ssd1b_jax.training import pictures
from ssd1b_jax.training.artwork import SETS, Sprites
from ssd1b_jax.training.pictures import RGB, Pixels
from ssd1b_jax.training.things import COLORS, STYLE_NAMES, THINGS

GRID = 24  # pixels of a template along each side
CONTRAST = 36  # of the rim's color, to belong to the thing


class Cut(NamedTuple):
    """A thing cut out of its picture; lengths are shares of the picture's width."""

    pixels: Float[np.ndarray, "grid grid 3"]
    x: float
    y: float
    scale: float


class Judge:
    """Compares pictures with the drawings of `Sprites`, both ways round."""

    def __init__(self, sprites: Sprites):
        self.sprites = sprites
        keys, layers = [], []
        for thing in range(len(THINGS)):
            for style in range(len(SETS)):
                keys.append((thing, style))
                layers.append(cut_sprite(sprites.thing(thing, style)))
        self.keys = np.array(keys * 2)
        layers = np.stack(layers)
        self.layers = np.concatenate([layers, layers[:, :, ::-1]])

    def background(self, pixels: Pixels) -> int:
        """The nearest named color to the median of the picture's rim."""
        return int(np.square(RGB - rim(pixels)).sum(1).argmin())

    def things(self, pixels: Pixels, color: int = -1) -> np.ndarray:
        """All things, the nearest first; of drawings painted in `color`, if one is given."""
        distances = self.distances(pixels, color)
        # Keys are in the order of things, each with every style, once for each way round.
        return distances.reshape(2, len(THINGS), len(SETS)).min((0, 2)).argsort()

    def style(self, pixels: Pixels, thing: int) -> int:
        """The style whose drawing of the thing is nearest."""
        distances = self.distances(pixels)
        own = np.where(self.keys[:, 0] == thing, distances, np.inf)
        return int(self.keys[own.argmin(), 1])

    def color(self, pixels: Pixels, thing: int) -> int:
        """The color in which the thing's drawings are nearest to the picture."""
        own = self.keys[:, 0] == thing
        return int(np.argmin([self.distances(pixels, color, own).min() for color in range(len(COLORS))]))

    def distances(self, pixels: Pixels, color: int = -1, chosen=slice(None)) -> Float[np.ndarray, " templates"]:
        """Mean squared differences from each template, on the picture's own background."""
        background = rim(pixels).astype(np.float32)
        cut = cut_out(pixels)
        layers = self.layers[chosen]
        if color >= 0:
            layers = np.stack([painted(layer, color) for layer in layers])
        elif background.mean() < 110:
            layers = inverted_lines(layers, self.keys[chosen][:, 1])
        share = layers[..., 3:] / 255
        shown = share * layers[..., :3] + (1 - share) * background
        return np.square(shown - cut.pixels).mean((1, 2, 3))


def painted(layer, color: int):
    recolored = pictures.recolor(layer, RGB[color])
    return np.concatenate([recolored, layer[..., 3:]], -1)


def inverted_lines(layers, styles):
    """Line drawings are white on dark paper."""
    layers = layers.copy()
    layers[styles == STYLE_NAMES.index("line"), ..., :3] = 255
    return layers


def rim(pixels: Pixels) -> Float[np.ndarray, "3"]:
    """The median color of the picture's outermost pixels."""
    width = max(len(pixels) // 21, 1)
    mask = np.ones(pixels.shape[:2], bool)
    mask[width:-width, width:-width] = False
    return np.median(pixels[mask], axis=0)


def cut_out(pixels: Pixels) -> Cut:
    """The part of a picture that differs from its rim, squared and scaled to the grid."""
    width = len(pixels)
    differs = np.abs(pixels.astype(np.float32) - rim(pixels)).max(-1) > CONTRAST
    rows, columns = (np.flatnonzero(differs.mean(axis) > 0.02) for axis in (1, 0))
    if not len(rows) or not len(columns):
        rows = columns = np.array([0, width - 1])
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(bottom - top, right - left)
    x, y = (left + right) / 2, (top + bottom) / 2
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    background = tuple(int(value) for value in rim(pixels))
    padded = Image.new("RGB", (3 * width, 3 * width), background)
    padded.paste(Image.fromarray(pixels), (width, width))
    shifted = tuple(value + width for value in box)
    small = padded.resize((GRID, GRID), Image.Resampling.BOX, box=shifted)
    return Cut(np.asarray(small).astype(np.float32), x / width, y / width, side / width)


def cut_sprite(sprite) -> Float[np.ndarray, "grid grid 4"]:
    """A sprite's drawn part, squared and scaled to the grid."""
    solid = sprite[..., 3] > 128
    rows, columns = (np.flatnonzero(solid.any(axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(bottom - top, right - left)
    x, y = (left + right) / 2 + side, (top + bottom) / 2 + side
    padded = Image.new("RGBA", (sprite.shape[1] + 2 * side, sprite.shape[0] + 2 * side))
    padded.paste(Image.fromarray(np.ascontiguousarray(sprite)), (int(side), int(side)))
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return np.asarray(padded.resize((GRID, GRID), Image.Resampling.BOX, box=box)).astype(np.float32)


def degree(pixels: Pixels, quality: str) -> float:
    """How much a picture has of one of QUALITIES, from 0 on; 1 is plain to see."""
    values = pixels.astype(np.float32)
    steps = np.concatenate([np.abs(np.diff(values, axis=axis)).mean(-1).ravel() for axis in (0, 1)])
    steepest = np.sort(steps)[-len(steps) // 100 :].mean()
    if quality == "dark":
        return float(np.clip((110 - np.percentile(values.max(-1), 95)) / 60, 0, 2))
    if quality == "faded":
        spread = np.percentile(values, 98) - np.percentile(values, 2)
        return float(np.clip((140 - spread) / 60, 0, 2) * (values.mean() > 120))
    if quality == "noisy":
        return float(np.median(steps) / 8)
    if quality == "blurry":
        return float(np.clip((55 - steepest) / 25, 0, 2))
    return float(_blocks(values))


def _blocks(values) -> float:
    """How many of the places with a step have none beside them, as blocks have: 1 where it is half of them."""
    shares = []
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).mean((1 - axis, 2))
        lone = np.minimum(steps[1:-1] - steps[:-2], steps[1:-1] - steps[2:])
        shares.append((lone > 1.5).mean())
    return float(np.mean(shares) / 0.15)
