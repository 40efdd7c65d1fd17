"""Training pictures: a thing in a style and a color, somewhere on a background, well or badly made.

A `Scene` says what is in a picture; `draw` makes its pixels. What captions say follows from it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from ssd1b_jax.training.artwork import CRUDE, Sprite, Sprites
from ssd1b_jax.training.things import (
    BACKGROUNDS,
    COLORS,
    QUALITY_NAMES,
    STYLE_NAMES,
    THINGS,
    is_held_out,
    is_held_out_color,
)

STYLE_SHARES = (0.42, 0.2, 0.12, 0.12, 0.06, 0.08)
LINE, CRUDE_STYLE = STYLE_NAMES.index("line"), STYLE_NAMES.index("crude")
RGB = np.array(list(BACKGROUNDS.values()), np.float32)
Pixels = UInt8[np.ndarray, "height width 3"]
Layer = Float[np.ndarray, "height width 4"]


class Scene(NamedTuple):
    """One picture in words and numbers; lengths are shares of its width, -1 stands for none."""

    thing: int
    style: int
    background: int  # one of COLORS
    color: int  # the thing's, one of COLORS; -1 is its own
    scale: float
    x: float
    y: float
    degrees: float
    mirror: bool
    quality: int  # one of QUALITIES
    second_quality: int
    seed: int  # of all that captions don't say

    def place(self) -> dict[str, float]:
        return dict(scale=self.scale, x=self.x, y=self.y, degrees=self.degrees, mirror=self.mirror)


def sample(rng: np.random.Generator) -> Scene:
    """A scene to learn: most are one thing, large and in the middle."""
    thing = int(rng.integers(len(THINGS)))
    style = int(rng.choice(len(STYLE_SHARES), p=STYLE_SHARES))
    background = _color(rng, thing, is_held_out)
    color = -1
    if rng.random() < 0.3:
        color = _color(rng, thing, is_held_out_color)
        if color == background:
            color = -1
    quality = second = -1
    if rng.random() < 0.14:
        quality = int(rng.integers(len(QUALITY_NAMES)))
        if rng.random() < 0.25:
            second = (quality + 1 + int(rng.integers(len(QUALITY_NAMES) - 1))) % len(QUALITY_NAMES)
    return Scene(
        thing, style, background, color, *_place(rng), float(rng.normal(0, 4)), bool(rng.random() < 0.25),
        quality, second, int(rng.integers(2**31)),
    )  # fmt: skip


def _color(rng, thing: int, is_held_out) -> int:
    return int(rng.choice([color for color in range(len(COLORS)) if not is_held_out(thing, color)]))


def _place(rng) -> tuple[float, float, float]:
    """Scale and centre: in the middle and large for the most part, else small and anywhere."""
    if rng.random() < 0.76:
        scale = rng.uniform(0.7, 0.97)
        room = (1 - scale) / 2
    else:
        scale = rng.uniform(0.4, 0.7)
        room = (1 - scale) / 2
    x, y = (0.5 + room * (rng.uniform(-1, 1) if scale > 0.7 else np.sin(rng.uniform(-1.6, 1.6))) for _ in range(2))
    return float(scale), float(x), float(y)


def source(rng: np.random.Generator, scene: Scene) -> Scene:
    """What a picture of `scene` may be made from: a rough drawing or another picture of the same layout."""
    thing = scene.thing if rng.random() < 0.7 else int(rng.integers(len(THINGS)))
    style = CRUDE_STYLE if rng.random() < 0.6 else int(rng.choice(len(STYLE_SHARES), p=STYLE_SHARES))
    paper = rng.random()
    background = COLORS.index("white") if paper < 0.45 else COLORS.index("black") if paper < 0.6 else -1
    if background < 0:
        background = int(rng.integers(len(COLORS)))
    return scene._replace(
        thing=thing,
        style=style,
        background=background,
        color=int(rng.integers(len(COLORS))) if rng.random() < 0.3 else -1,
        scale=float(np.clip(scene.scale * rng.uniform(0.88, 1.1), 0.25, 1.0)),
        x=scene.x + float(rng.normal(0, 0.015)),
        y=scene.y + float(rng.normal(0, 0.015)),
        degrees=scene.degrees + float(rng.normal(0, 4)),
        quality=int(rng.integers(len(QUALITY_NAMES))) if rng.random() < 0.1 else -1,
        second_quality=-1,
        seed=int(rng.integers(2**31)),
    )


def draw(sprites: Sprites, scene: Scene, width: int, photo: bool = False) -> Pixels:
    """The picture of a scene; as a `photo` it gets uneven light, a soft background and grain."""
    variant = scene.seed % CRUDE
    return draw_sprite(sprites.thing(scene.thing, scene.style, variant), scene, width, photo)


def draw_sprite(sprite: Sprite, scene: Scene, width: int, photo: bool = False) -> Pixels:
    """The picture of a scene with this sprite in it."""
    rng = np.random.default_rng(scene.seed)
    paper = _near(rng, scene.background)
    canvas = np.broadcast_to(paper, (width, width, 3)).astype(np.float32)
    if photo:
        canvas = _room(rng, paper, width)
    layer = _inked(rng, placed(sprite, width=width, **scene.place()), scene, paper)
    canvas = over(edged(layer, paper, scene.style), canvas)
    if photo:
        canvas = canvas * _light(rng, width) + rng.normal(0, rng.uniform(0, 8), canvas.shape)
    for quality in (scene.quality, scene.second_quality):
        if quality >= 0:
            canvas = degrade(rng, canvas, QUALITY_NAMES[quality])
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def _near(rng, color: int) -> Float[np.ndarray, "3"]:
    """A named color, nearly; white and black for the most part exactly."""
    exact = COLORS[color] in ("white", "black") and rng.random() < 0.8
    return RGB[color] if exact else np.clip(RGB[color] + rng.uniform(-9, 9, 3), 0, 255).astype(np.float32)


def _inked(rng, pixels: Layer, scene: Scene, paper) -> Layer:
    """The drawing in its scene's color."""
    if scene.style in (LINE, CRUDE_STYLE):
        ink = RGB[COLORS.index("black" if paper.mean() > 110 else "white")] + rng.uniform(0, 40)
        if scene.color >= 0 and (scene.style == LINE or rng.random() < 0.5):
            ink = RGB[scene.color]
        # Outlines are black in the sprite: black becomes the ink, what is painted keeps its color.
        painted = pixels[..., :3].max(-1, keepdims=True) / 255
        pixels[..., :3] = pixels[..., :3] + (1 - painted) * np.clip(ink, 0, 255)
    if scene.color >= 0 and scene.style != LINE:
        pixels[..., :3] = recolor(pixels, RGB[scene.color])
    return pixels


def recolor(sprite: Layer, target) -> Float[np.ndarray, "size size 3"]:
    """The drawing with its commonest color turned into `target`, shades of it into shades of that."""
    rgb, weight = sprite[..., :3], sprite[..., 3] / 255
    common = dominant(sprite)
    lightness = rgb.mean(-1, keepdims=True) - common.mean()
    chroma, own = rgb - rgb.mean(-1, keepdims=True), common - common.mean()
    size = np.linalg.norm(chroma, axis=-1), max(np.linalg.norm(own), 1e-3)
    alike = (chroma @ own) / np.maximum(size[0] * size[1], 1e-3)
    grey = 1 - np.abs(lightness[..., 0]) / 90
    near = np.where(size[1] < 30, np.where(size[0] < 40, grey, 0), np.where(size[0] > 25, (alike - 0.6) * 4, 0))
    share = np.clip(near, 0, 1)[..., None] * (weight[..., None] > 0)
    return rgb + share * (np.clip(target + 0.8 * lightness, 0, 255) - rgb)


def dominant(sprite: Layer) -> Float[np.ndarray, "3"]:
    """The commonest color of a drawing, of 8 x 8 x 8, ink left out where there is anything else."""
    pixels = sprite[sprite[..., 3] > 200][:, :3]
    if not len(pixels):
        return np.zeros(3, np.float32)
    bins = (pixels // 32).astype(int) @ [64, 8, 1]
    counts = np.bincount(bins, minlength=512)
    if counts[1:].any():
        counts[0] = 0
    return pixels[bins == counts.argmax()].mean(0)


def natural_colors(sprites: Sprites) -> list[int]:
    """For each thing the named color that most of its flat drawing has; -1 where none prevails."""
    indices = []
    for thing in range(len(THINGS)):
        pixels = sprites.thing(thing, 0).astype(np.float32)
        common = dominant(pixels)
        distances = np.linalg.norm(RGB - common, axis=-1)
        drawn = pixels[pixels[..., 3] > 200][:, :3]
        share = (np.linalg.norm(drawn - common, axis=-1) < 60).mean()
        indices.append(int(distances.argmin()) if share > 0.45 and distances.min() < 90 else -1)
    return indices


def placed(sprite: Sprite, *, width: int, scale: float, x: float, y: float, degrees: float, mirror: bool) -> Layer:
    """A sprite on a transparent canvas `width` wide: its size and centre are shares of that."""
    picture = Image.fromarray(sprite)
    if mirror:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    size = max(round(scale * width), 8)
    picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    if degrees:
        picture = picture.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    canvas = Image.new("RGBA", (width, width))
    canvas.paste(picture, (round(x * width - picture.width / 2), round(y * width - picture.height / 2)))
    return np.asarray(canvas).astype(np.float32)


def edged(layer, paper, style: int):
    """The layer with a rim around it: white for stickers, and where a drawing would vanish on its paper."""
    alpha = Image.fromarray(layer[..., 3].astype(np.uint8))
    solid = layer[..., 3] > 128
    inner = np.asarray(alpha.filter(ImageFilter.MinFilter(5))) > 128
    rim = solid & ~inner
    vanishing = rim.any() and (np.abs(layer[rim][:, :3] - paper).max(-1) < 50).mean() > 0.35
    sticker = STYLE_NAMES[style] == "sticker"
    if not (vanishing or sticker):
        return layer
    light = paper.min() > 225 or (paper.mean() > 170 and not sticker)
    color = RGB[COLORS.index("gray")] + 50 if sticker and light else RGB[COLORS.index("black" if light else "white")]
    grown = alpha.filter(ImageFilter.MaxFilter(9 if sticker else 5)).filter(ImageFilter.GaussianBlur(0.6))
    edge = np.concatenate([np.broadcast_to(color, layer[..., :3].shape), np.asarray(grown)[..., None]], -1)
    share = layer[..., 3:] / 255
    alpha = np.maximum(edge[..., 3:], layer[..., 3:])
    return np.concatenate([share * layer[..., :3] + (1 - share) * edge[..., :3], alpha], -1).astype(np.float32)


def over(layer, canvas):
    share = layer[..., 3:] / 255
    return share * layer[..., :3] + (1 - share) * canvas


def _room(rng, paper, width: int):
    """A soft uneven background around a color."""
    small = paper + rng.normal(0, rng.uniform(5, 45), (1 + int(rng.integers(1, 6)),) * 2 + (3,))
    small = small + rng.normal(0, 15, small.shape[:2])[..., None]
    picture = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)).resize((width, width), Image.Resampling.BICUBIC)
    return np.asarray(picture).astype(np.float32)


def _light(rng, width: int):
    """A slope of light over the picture."""
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, width))
    slope = across * rng.normal(0, 0.2) + down * rng.normal(0, 0.2) + rng.uniform(0.75, 1.05)
    return np.clip(slope, 0.2, 1.3)[..., None].astype(np.float32)


def degrade(rng, canvas, quality: str):
    """What a word of QUALITIES says, in a degree that can be seen."""
    width = canvas.shape[0]
    if quality == "dark":
        return canvas * rng.uniform(0.2, 0.5)
    if quality == "faded":
        share = rng.uniform(0.5, 0.75)
        return canvas * (1 - share) + share * rng.uniform(195, 235)
    if quality == "noisy":
        return canvas + rng.normal(0, rng.uniform(18, 40), canvas.shape)
    picture = Image.fromarray(np.clip(canvas + 0.5, 0, 255).astype(np.uint8))
    if quality == "blurry":
        picture = picture.filter(ImageFilter.GaussianBlur(width / 128 * rng.uniform(2.0, 5.0)))
    else:
        cells = int(rng.integers(10, 25))
        picture = picture.resize((cells, cells), Image.Resampling.BOX).resize((width, width), Image.Resampling.NEAREST)
    return np.asarray(picture).astype(np.float32)


def mixture(rng, sprites: Sprites, width: int) -> Pixels:
    """A picture for the autoencoder alone: several drawings, any, anywhere, over soft colors and shapes."""
    canvas = _room(rng, rng.uniform(0, 255, 3), width)
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.5:
            sprite = sprites.other(int(rng.integers(sprites.others)))
        else:
            index = int(rng.integers(len(sprites.pixels) - sprites.others))
            sprite = sprites.pixels[index]
        x, y = rng.uniform(0.1, 0.9, 2)
        place = dict(scale=rng.uniform(0.3, 1.5), x=x, y=y, degrees=float(rng.normal(0, 25)), mirror=rng.random() < 0.5)
        layer = placed(sprite, width=width, **place)
        if rng.random() < 0.4:
            layer[..., :3] = recolor(layer, rng.uniform(0, 255, 3))
        canvas = over(layer, canvas)
    if rng.random() < 0.3:
        canvas = canvas * _light(rng, width) + rng.normal(0, rng.uniform(0, 12), canvas.shape)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
