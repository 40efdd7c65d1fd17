"""Lines of text as ink, for drawings that people read."""

import functools
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Ink = UInt8[np.ndarray, "height width"]
FINE = 4  # times finer than pixels: letters are drawn so, and keep their distances
_FALLBACKS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arial.ttf", "msyh.ttc")


def write(text: str, size: int) -> Ink:
    """A line in letters of `size` pixels, ink from 0 to 255, as wide as `width` says.

    Pillow's own font has ASCII and little more. Other text takes a font of the system that has all
    of it, or else whatever there is, which shows boxes.
    """
    font = _font(text, size)
    ascent, descent = font.getmetrics()
    height = -(-(ascent + descent) // FINE)
    picture = Image.new("L", (FINE * max(1, width(text, size)), FINE * height))
    ImageDraw.Draw(picture).text((0, ascent), text, fill=255, font=font, anchor="ls")
    return np.array(picture.reduce(FINE))


def width(text: str, size: int) -> int:
    """Pixels that a line takes."""
    return math.ceil(_font(text, size).getlength(text) / FINE)


def wrap(text: str, size: int, most: int, lines: int) -> list[str]:
    """Break into lines of at most `most` pixels, at spaces where there are any; the end of what is too long is cut."""
    left, broken = text.split(), []
    while left and len(broken) < lines:
        taken = _fitting(left, " ", size, most)
        if taken == 0:  # a word longer than the line
            cut = max(1, _fitting(left[0], "", size, most))
            left[:1] = [left[0][:cut], left[0][cut:]]
            taken = 1
        broken.append(" ".join(left[:taken]))
        left = [word for word in left[taken:] if word]
    if left:
        last = broken[-1]
        while last and width(f"{last} …", size) > most:
            last = last[:-1].rstrip()
        broken[-1] = f"{last} …"
    return broken


def _fitting(parts: list[str] | str, between: str, size: int, most: int) -> int:
    """How many of the first parts fit."""
    count = 0
    while count < len(parts) and width(between.join(parts[: count + 1]), size) <= most:
        count += 1
    return count


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    fonts = _fonts(size)
    return next((font for font in fonts if _covers(font, text)), fonts[-1])


@functools.cache
def _fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    fonts = [ImageFont.load_default(FINE * size)]
    for name in _FALLBACKS:
        try:
            fonts.append(ImageFont.truetype(name, FINE * size))
        except OSError:
            continue
    return tuple(fonts)


def _covers(font: ImageFont.FreeTypeFont, text: str) -> bool:
    unknown = bytes(font.getmask("\uffff"))
    return all(character.isspace() or bytes(font.getmask(character)) != unknown for character in text)
