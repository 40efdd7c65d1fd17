"""The artwork that training pictures are composed of: open emoji sets from npm, as sprites.

`fetch` gets five sets of drawings and the CLDR keywords; `render_sprites` draws every emoji once
in every style, with transparency, and rough drawings of them too.
"""

import io
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.lib.format import open_memmap
from PIL import Image

from ssd1b_jax.errors import TrainingError
from ssd1b_jax.training.things import STYLE_NAMES, THINGS

# Fluent Emoji: MIT. Noto: Apache-2.0. Twemoji: CC BY 4.0. unicode-emoji-json: MIT. CLDR: Unicode-3.0.
PACKAGES = {
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "glossy": "@iconify-json/fluent-emoji@1.2.7",
    "line": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "cartoon": "@iconify-json/noto@1.2.9",
    "sticker": "@iconify-json/twemoji@1.2.5",
    "names": "unicode-emoji-json@0.9.0",
    "keywords": "cldr-annotations-full@48.2.0",
}
SETS = STYLE_NAMES[:5]  # the crude drawings are made of the first
SIZE = 192  # pixels of a sprite along each side
OTHERS = 600  # emoji that are no THINGS, for the autoencoder
HELD_OUT = 64
CRUDE = 4  # rough drawings of each thing: painted, painted, outlines, outlines
Sprite = UInt8[np.ndarray, "size size 4"]


def fetch(folder: Path) -> None:
    """Download the npm packages into `folder`, once, and unpack them. Needs npm on the PATH.

    The archives are kept: a machine without a network can be given those alone.
    """
    for name, package in PACKAGES.items():
        target, archive = folder / name, folder / f"{name}.tgz"
        if target.exists():
            continue
        if not archive.exists():
            _download(package, archive)
        partial = folder / f"{name}.part"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(target)


def _download(package: str, archive: Path) -> None:
    folder = archive.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        packed = subprocess.run(
            ["npm", "pack", package, "--silent"], cwd=folder, capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise TrainingError("npm was not found: install Node.js, which the drawings are fetched with") from None
    except subprocess.CalledProcessError as error:
        raise TrainingError(f"npm could not fetch {package}: {error.stderr.strip()}") from None
    (folder / packed.stdout.split()[-1]).rename(archive)


@dataclass(frozen=True)
class Artwork:
    """A fetched folder: SVG bodies by style and CLDR name, and the keywords of every emoji."""

    folder: Path

    @cached_property
    def emoji(self) -> dict[str, str]:
        """CLDR short name: the characters."""
        table = _json(self.folder / "names" / "package" / "data-by-emoji.json")
        return {entry["name"]: characters for characters, entry in table.items()}

    @cached_property
    def groups(self) -> dict[str, str]:
        """CLDR short name: the name of its group."""
        table = _json(self.folder / "names" / "package" / "data-by-emoji.json")
        return {entry["name"]: entry["group"] for entry in table.values()}

    @cached_property
    def keywords(self) -> dict[str, list[str]]:
        """CLDR short name: CLDR's English keywords, in lower case."""
        file = self.folder / "keywords" / "package" / "annotations" / "en" / "annotations.json"
        table = _json(file)["annotations"]["annotations"]
        keywords = {}
        for name, characters in self.emoji.items():
            entry = table.get(characters) or table.get(characters.replace("\ufe0f", ""), {})
            keywords[name] = [word.lower() for word in entry.get("default", [])]
        return keywords

    def bodies(self, style: str) -> dict[str, tuple[str, float]]:
        """CLDR short name: SVG content, and the width of its square canvas."""
        package = self.folder / style / "package"
        icons = _json(package / "icons.json")
        # The glossy set has no code points of its own, and the names of the flat set.
        by_code_points = _json((package if style != "glossy" else self.folder / "flat" / "package") / "chars.json")
        drawings = {}
        for name, characters in self.emoji.items():
            code_points = "-".join(f"{ord(char):x}" for char in characters if char != "\ufe0f")
            icon = icons["icons"].get(by_code_points.get(code_points))
            if icon:
                drawings[name] = icon["body"], float(icons.get("width", 16))
        missing = [name for name in THINGS if name not in drawings]
        if missing:
            raise TrainingError(f"the {style} drawings lack {', '.join(missing)}")
        return drawings


def _json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def rasterize(body: str, width: float, size: int = SIZE) -> Sprite:
    """SVG content on a square canvas `width` wide, with straight alpha."""
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {width:g}" color="#000000"><g>{body}</g></svg>'
    )
    encoded = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGBA"))


def crude(rng, body: str, width: float, painted: bool) -> str:
    """The drawing as an unpractised hand might do it: trembling outlines, with its colors or without."""
    if not painted:
        body = re.sub(r'fill="(?!none)[^"]*"', 'fill="none"', body)
    thickness = width / 32 * rng.uniform(0.5, 1.6)
    tremble, waves = width / 32 * rng.uniform(1.0, 3.5), 32 / width * rng.uniform(0.04, 0.1)
    return (
        '<filter id="hand" x="-10%" y="-10%" width="120%" height="120%">'
        f'<feTurbulence type="fractalNoise" baseFrequency="{waves:.3f}" numOctaves="2" seed="{rng.integers(9999)}"/>'
        f'<feDisplacementMap in="SourceGraphic" scale="{tremble:.2f}" xChannelSelector="R" yChannelSelector="G"/>'
        f'</filter><g filter="url(#hand)"><rect width="{width:g}" height="{width:g}" fill="#fff" fill-opacity="0"/>'
        f'<g transform="translate({width * 0.06:.2f} {width * 0.06:.2f}) scale(0.88)" stroke="#000000" '
        f'stroke-width="{thickness:.2f}" stroke-linejoin="round" stroke-linecap="round">{body}</g></g>'
    )


@dataclass(frozen=True)
class Sprites:
    """Every thing in every style, rough drawings of them, and drawings of no thing."""

    pixels: UInt8[np.ndarray, "sprites size size 4"]
    others: int  # how many of the last are no things

    @classmethod
    def load(cls, folder: Path) -> "Sprites":
        pixels = np.load(folder / "sprites.npy", mmap_mode="r")
        return cls(pixels, len(pixels) - len(THINGS) * (len(SETS) + CRUDE))

    def thing(self, thing: int, style: int, variant: int = 0) -> Sprite:
        """A thing in one of STYLES; crude drawings have `CRUDE` variants, the first half painted."""
        return self.pixels[thing * (len(SETS) + CRUDE) + style + (variant if style == len(SETS) else 0)]

    def other(self, index: int) -> Sprite:
        return self.pixels[len(self.pixels) - self.others + index]


def other_drawings(artwork: Artwork, seed: int = 0) -> list[tuple[str, str]]:
    """Style and name of every drawing of no THINGS, people and flags left out, shuffled.

    The autoencoder sees the first `OTHERS` of them; the next `HELD_OUT` measure it.
    """
    plain = [name for name, group in artwork.groups.items() if group not in ("People & Body", "Flags")]
    bodies = {style: artwork.bodies(style) for style in SETS}
    drawn = [(style, name) for name in plain if name not in THINGS for style in SETS if name in bodies[style]]
    return [drawn[i] for i in np.random.default_rng(seed).permutation(len(drawn))]


def held_out(artwork: Artwork, count: int = HELD_OUT) -> list[Sprite]:
    """Drawings that no training picture has."""
    bodies = {style: artwork.bodies(style) for style in SETS}
    return [rasterize(*bodies[style][name]) for style, name in other_drawings(artwork)[OTHERS : OTHERS + count]]


def render_sprites(artwork: Artwork, folder: Path, others: int = OTHERS, size: int = SIZE, seed: int = 0) -> None:
    """Write `sprites.npy`: see `Sprites`."""
    rng = np.random.default_rng(seed + 1)
    bodies = {style: artwork.bodies(style) for style in SETS}
    contents = [content for name in THINGS for content in _contents(rng, bodies, name)]
    drawn = other_drawings(artwork)[:others]
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "sprites.npy.part"
    pixels = open_memmap(partial, "w+", np.uint8, (len(contents) + len(drawn), size, size, 4))
    for index, content in enumerate([*contents, *(bodies[style][name] for style, name in drawn)]):
        pixels[index] = rasterize(*content, size)
    pixels.flush()
    partial.replace(folder / "sprites.npy")


def _contents(rng, bodies, name: str):
    yield from (bodies[style][name] for style in SETS)
    body, width = bodies["flat"][name]
    for variant in range(CRUDE):
        yield crude(rng, body, width, painted=variant < CRUDE // 2), width
