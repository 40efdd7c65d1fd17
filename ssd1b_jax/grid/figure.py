"""A table of pictures with words at its edges, drawn as one picture on white."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from ssd1b_jax import images
from ssd1b_jax.grid import letters

MARGIN, GAP, THUMBNAIL, LEAST_WIDTH, MOST_LABEL = 40, 8, 96, 560, 200
TITLE, WORD, SMALL = 28, 20, 16  # sizes of letters
BLACK, GREY, PALE = (30, 30, 30), (110, 110, 110), (222, 222, 222)

Color = tuple[int, int, int]
CellPixels = UInt8[np.ndarray, "_ _ 3"]  # of any size: the pictures of a table differ


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The name of an axis and a word for each of its values; one value without a word is no axis."""

    name: str = ""
    values: Sequence[str] = ("",)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """All but the pictures: `thumbnail` (as the function makes it) and title above the table, `footer` below.

    Pictures go in at `scale`, so that those of one figure keep their sizes' relation.
    """

    title: str
    subtitle: str
    footer: str
    thumbnail: CellPixels | None
    x: Edge
    y: Edge
    scale: float

    def cell(self, picture: CellPixels) -> CellPixels:
        """A picture as it goes into the table."""
        return _scaled(picture, self.scale)

    def draw(self, cells: Sequence[CellPixels]) -> CellPixels:
        """The table, given its cells row by row."""
        columns = len(self.x.values)
        cells = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        heights = [max(cell.shape[0] for cell in row) for row in cells]
        widths = [max(cell.shape[1] for cell in column) for column in zip(*cells, strict=True)]
        x_labels = [letters.wrap(value, WORD, width, 3) for value, width in zip(self.x.values, widths, strict=True)]
        y_labels = [
            letters.wrap(value, WORD, MOST_LABEL, max(1, height // _line(WORD)))
            for value, height in zip(self.y.values, heights, strict=True)
        ]
        gutter = max(letters.width(line, WORD) for lines in y_labels for line in [*lines, ""])
        left = MARGIN + (_line(WORD) + GAP if self.y.name else 0) + (gutter + 2 * GAP if gutter else 0)
        xs, right = _places(left, widths)
        inner = max(right - MARGIN, LEAST_WIDTH)
        header = self._header(inner)
        names = MARGIN + header.height + 3 * GAP
        top = names + _line(WORD) * (bool(self.x.name) + max(len(lines) for lines in x_labels)) + GAP
        ys, bottom = _places(top, heights)
        footer = letters.wrap(self.footer, SMALL, inner, 4)
        page = _Page(inner + 2 * MARGIN, bottom + 3 * GAP + len(footer) * _line(SMALL) + MARGIN)

        page.paste(header, MARGIN, MARGIN)
        page.write(self.x.name, WORD, GREY, (left + right) // 2, names, 0.5)
        for lines, x, width in zip(x_labels, xs, widths, strict=True):
            page.write_lines(lines, WORD, BLACK, x + width // 2, top - GAP - _line(WORD) * len(lines), 0.5)
        page.write_upwards(self.y.name, WORD, GREY, MARGIN, (top + bottom) // 2)
        for lines, y, height, row in zip(y_labels, ys, heights, cells, strict=True):
            page.write_lines(lines, WORD, BLACK, left - 2 * GAP, y + (height - len(lines) * _line(WORD)) // 2, 1.0)
            for cell, x, width in zip(row, xs, widths, strict=True):
                page.frame(cell, x, y, width, height)
        page.write_lines(footer, SMALL, GREY, MARGIN, bottom + 3 * GAP)
        return page.pixels

    def _header(self, width: int) -> "_Page":
        """The input, the title to its right, and the subtitle under that."""
        thumbnail = self.thumbnail
        left = 0 if thumbnail is None else thumbnail.shape[1] + 3 * GAP
        title = letters.wrap(self.title, TITLE, width - left, 2)
        subtitle = letters.wrap(self.subtitle, SMALL, width - left, 2)
        text = len(title) * _line(TITLE) + len(subtitle) * _line(SMALL)
        height = max(text, 0 if thumbnail is None else thumbnail.shape[0] + 2)
        page = _Page(width, height)
        if thumbnail is not None:
            page.frame(thumbnail, 1, 0, thumbnail.shape[1], height)
        y = (height - text) // 2
        page.write_lines(title, TITLE, BLACK, left, y)
        page.write_lines(subtitle, SMALL, GREY, left, y + len(title) * _line(TITLE))
        return page


def thumbnail(picture: CellPixels) -> CellPixels:
    """A picture small enough to stand beside a title."""
    return _scaled(picture, THUMBNAIL / max(picture.shape[:2]))


def _scaled(picture: CellPixels, scale: float) -> CellPixels:
    height, width, _ = picture.shape
    return images.resize(picture, max(1, round(width * scale)), max(1, round(height * scale)), "stretch")


class _Page:
    """White pixels to draw on."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.pixels = np.full((height, width, 3), 255, np.uint8)

    def paste(self, page: "_Page", x: int, y: int) -> None:
        self.pixels[y : y + page.height, x : x + page.width] = page.pixels

    def frame(self, picture: CellPixels, x: int, y: int, width: int, height: int) -> None:
        """A picture in the middle of a place, with a thin line around it."""
        high, wide, _ = picture.shape
        x, y = x + (width - wide) // 2, y + (height - high) // 2
        self.pixels[y - 1 : y + high + 1, x - 1 : x + wide + 1] = PALE
        self.pixels[y : y + high, x : x + wide] = picture

    def write(self, text: str, size: int, color: Color, x: int, y: int, align: float = 0.0) -> None:
        """A line that begins at x, ends there (`align` 1) or has its middle there (0.5)."""
        if text:
            ink = letters.write(text, size)
            self._blend(ink, color, round(x - align * ink.shape[1]), y + (_line(size) - ink.shape[0]) // 2)

    def write_lines(self, lines: Sequence[str], size: int, color: Color, x: int, y: int, align: float = 0.0) -> None:
        for i, line in enumerate(lines):
            self.write(line, size, color, x, y + i * _line(size), align)

    def write_upwards(self, text: str, size: int, color: Color, x: int, middle: int) -> None:
        """A line that reads from below, its middle at a height."""
        if text:
            ink = np.rot90(letters.write(text, size))
            self._blend(ink, color, x, max(0, middle - ink.shape[0] // 2))

    def _blend(self, ink: letters.Ink, color: Color, x: int, y: int) -> None:
        place = self.pixels[max(0, y) : y + ink.shape[0], max(0, x) : x + ink.shape[1]]
        share = ink[max(0, -y) :, max(0, -x) :][: place.shape[0], : place.shape[1], None] / 255
        place[...] = np.rint(place * (1 - share) + np.array(color) * share)


def _places(start: int, sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where things of these sizes begin, side by side, and where the last ends."""
    ends = list(itertools.accumulate((size + GAP for size in sizes), initial=start))
    return ends[:-1], ends[-1] - GAP


def _line(size: int) -> int:
    """The height of a line of letters."""
    return round(1.4 * size)
