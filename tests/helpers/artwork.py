"""Artwork of our own in place of the emoji sets: four colored quarters for every thing, and its styles beside it."""

import json
from pathlib import Path

import numpy as np

from ssd1b_jax.training.artwork import CRUDE, SETS, Sprites
from ssd1b_jax.training.things import THINGS

SIZE = 24


def colors(thing: int) -> list[str]:
    """Of the quarters."""
    return ["#" + "".join(f"{value:02x}" for value in rgb) for rgb in _quarters(thing)]


def _quarters(thing: int) -> np.ndarray:
    return np.random.default_rng(thing).integers(0, 256, (4, 3))


def sprites(others: int = 3) -> Sprites:
    """As `render_sprites` would draw them, but small."""
    pixels = np.zeros((len(THINGS) * (len(SETS) + CRUDE) + others, SIZE, SIZE, 4), np.uint8)
    for index, sprite in enumerate(pixels):
        thing, style = divmod(index, len(SETS) + CRUDE)
        first, second, third, fourth = _quarters(thing)
        sprite[3:12, 3:12, :3], sprite[3:12, 12:21, :3] = first, second
        sprite[12:21, 3:12, :3], sprite[12:21, 12:21, :3] = third, fourth
        sprite[3:21, 3:21, 3] = 255
        sprite[9 : 11 + style, 9:14, :3] = 0  # ink: more of it in each style
    return Sprites(pixels, others)


def folder(target: Path) -> Path:
    """A folder as `fetch` leaves it, with other emoji than the things too."""
    names = [*THINGS, "waving hand", "flag", "other one", "other two"]
    groups = ["Objects"] * len(THINGS) + ["People & Body", "Flags", "Objects", "Objects"]
    icons, chars, emoji, keywords = {}, {}, {}, {}
    for i, name in enumerate(names):
        first, second, third, fourth = colors(i)
        icons[f"icon-{i}"] = {
            "body": f'<path d="M4 4h12v12h-12z" fill="{first}"/><path d="M16 4h12v12h-12z" fill="{second}"/>'
            f'<path d="M4 16h12v12h-12z" fill="{third}"/><path d="M16 16h12v12h-12z" fill="{fourth}"/>'
        }
        chars[f"{0x1F300 + i:x}"] = f"icon-{i}"
        emoji[chr(0x1F300 + i)] = {"name": name, "group": groups[i]}
        keywords[chr(0x1F300 + i)] = {
            "default": [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}".lower(), "animal", "one"]
        }
    for style in SETS:
        package = target / style / "package"
        package.mkdir(parents=True)
        (package / "icons.json").write_text(json.dumps({"icons": icons, "width": 32}))
        (package / "chars.json").write_text(json.dumps({} if style == "glossy" else chars))
    (target / "names" / "package").mkdir(parents=True)
    (target / "names" / "package" / "data-by-emoji.json").write_text(json.dumps(emoji))
    annotations = target / "keywords" / "package" / "annotations" / "en"
    annotations.mkdir(parents=True)
    (annotations / "annotations.json").write_text(json.dumps({"annotations": {"annotations": keywords}}))
    return target
