"""The training pictures: emoji drawings from npm packages, rendered on plain backgrounds.

`fetch` gets the drawings (Fluent Emoji flat, MIT) and their CLDR names (unicode-emoji-json, MIT)
with `npm pack`; `render` makes the pictures. Everything follows from the seed.
"""

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.lib.format import open_memmap

from ssd1b_jax import images
from ssd1b_jax.training.things import BACKGROUNDS, COLORS, THINGS, is_held_out

PACKAGES = {"drawings": "@iconify-json/fluent-emoji-flat@1.2.6", "names": "unicode-emoji-json@0.9.0"}
SIZE = 64
Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Drawings:
    """SVG bodies on a 32 x 32 canvas: one for each of THINGS, and all but the people for variety."""

    things: tuple[str, ...]
    everything: tuple[str, ...]


def fetch(folder: Path) -> None:
    """Download and unpack the npm packages into `folder`, once. Needs npm on the PATH."""
    for name, package in PACKAGES.items():
        target = folder / name
        if target.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            packed = subprocess.run(
                ["npm", "pack", package, "--silent"], cwd=folder, capture_output=True, text=True, check=True
            )
        except FileNotFoundError:
            raise RuntimeError("npm was not found: install Node.js, which the drawings are fetched with") from None
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"npm could not fetch {package}: {error.stderr.strip()}") from None
        archive = folder / packed.stdout.split()[-1]
        partial = folder / f"{name}.part"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(target)
        archive.unlink()


def load_drawings(folder: Path) -> Drawings:
    """The drawings of a fetched folder, by way of each emoji's code points and CLDR name."""
    drawings = folder / "drawings" / "package"
    icons = json.loads((drawings / "icons.json").read_text())["icons"]
    by_code_points = json.loads((drawings / "chars.json").read_text())
    emoji = json.loads((folder / "names" / "package" / "data-by-emoji.json").read_text())
    bodies = {}
    for characters, entry in emoji.items():
        code_points = "-".join(f"{ord(char):x}" for char in characters if char != "\ufe0f")
        if code_points in by_code_points:
            bodies[entry["name"]] = icons[by_code_points[code_points]]["body"]
    missing = [name for name in THINGS if name not in bodies]
    if missing:
        raise RuntimeError(f"the drawings lack {', '.join(missing)}")
    categories = json.loads((drawings / "metadata.json").read_text())["categories"]
    people = set(categories["People & Body"])  # more than half of all, and much alike
    everything = tuple(icon["body"] for name, icon in sorted(icons.items()) if name not in people)
    return Drawings(tuple(bodies[name] for name in THINGS), everything)


def load_names(folder: Path) -> list[str]:
    """The CLDR short names of all emoji."""
    emoji = json.loads((folder / "names" / "package" / "data-by-emoji.json").read_text(encoding="utf-8"))
    return [entry["name"] for entry in emoji.values()]


def hex_color(color) -> str:
    return "#" + "".join(f"{round(float(value)):02x}" for value in color)


def rasterize(content: str, background: str, size: int = SIZE) -> Pixels:
    """SVG content on the 32 x 32 canvas of the drawings, over a CSS color."""
    import resvg_py

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<rect width="32" height="32" fill="{background}"/>{content}</svg>'
    )
    return images.load(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)).pixels


def place(body: str, *, x: float, y: float, scale: float, degrees: float = 0.0, mirror: bool = False) -> str:
    """A drawing with its centre moved to (x, y) of the canvas, scaled, turned and mirrored about it."""
    flip = -scale if mirror else scale
    moves = f"translate({x:.3f} {y:.3f}) rotate({degrees:.2f}) scale({flip:.4f} {scale:.4f}) translate(-16 -16)"
    return f'<g transform="{moves}">{body}</g>'


def _sticker(body: str, edge: str) -> str:
    """The drawing with a thin edge of one color around it, as a sticker has."""
    value = int(edge == "white")
    functions = "".join(f'<feFunc{c} type="linear" slope="0" intercept="{value}"/>' for c in "RGB")
    return (
        '<filter id="edge"><feMorphology in="SourceAlpha" operator="dilate" radius="0.7"/>'
        f"<feComponentTransfer>{functions}</feComponentTransfer></filter>"
        f'<g filter="url(#edge)">{body}</g>{body}'
    )


def needs_edge(body: str, background) -> bool:
    """True where much of the drawing's own rim would vanish on this background."""
    on_white, on_black = (rasterize(body, color).astype(float) for color in ("#ffffff", "#000000"))
    alpha = 1 - (on_white - on_black).mean(-1) / 255
    solid = alpha > 0.5
    inner = solid.copy()
    for axis in (0, 1):
        for shift in (-2, 2):
            inner &= np.roll(solid, shift, axis)
    rim = solid & ~inner
    distance = np.abs(on_black[rim] - np.asarray(background, float)).max(-1)
    return bool((distance < 60).mean() > 0.3)


def render_thing(rng, drawings: Drawings, thing: int, color: int, edged: bool, *, size: int = SIZE) -> Pixels:
    """One training picture: a thing shifted, scaled, turned a little, on a named color, nearly."""
    name = COLORS[color]
    background = np.clip(np.array(BACKGROUNDS[name]) + rng.uniform(-9, 9, 3), 0, 255)
    body = drawings.things[thing]
    if edged:
        body = _sticker(body, "black" if name in ("white", "yellow", "pink") else "white")
    scale = rng.uniform(0.72, 1.0)
    room = 1 + 13 * (1 - scale)
    x, y = 16 + rng.uniform(-room, room, 2)
    placed = place(body, x=x, y=y, scale=scale, degrees=rng.normal(0, 5), mirror=rng.random() < 0.3)
    return rasterize(placed, hex_color(background), size)


def render_scene(rng, drawings: Drawings) -> Pixels:
    """A picture for the autoencoder alone: any drawings, sizes and colors, gradients, a few shapes."""
    colors = [hex_color(color) for color in rng.uniform(0, 255, (6, 3))]
    content = (
        f'<linearGradient id="sky" x1="{rng.random():.2f}" y1="0" x2="{rng.random():.2f}" y2="1">'
        f'<stop offset="0" stop-color="{colors[0]}"/><stop offset="1" stop-color="{colors[1]}"/></linearGradient>'
        '<rect width="32" height="32" fill="url(#sky)"/>'
    )
    for color in colors[2 : 2 + rng.integers(4)]:
        x, y, width, height = rng.uniform(0, 32, 4)
        shape = f'cx="{x:.1f}" cy="{y:.1f}" rx="{width / 3:.1f}" ry="{height / 3:.1f}"'
        content += f'<ellipse {shape} fill="{color}" opacity="{rng.uniform(0.4, 1):.2f}"/>'
    for _ in range(rng.integers(1, 4)):
        body = drawings.everything[rng.integers(len(drawings.everything))]
        x, y = rng.uniform(4, 28, 2)
        content += place(body, x=x, y=y, scale=rng.uniform(0.4, 2.0), degrees=rng.normal(0, 20))
    return rasterize(content, colors[0])


def render(source: Path, target: Path, *, per_thing: int, scenes: int, seed: int = 0) -> None:
    """Write `pixels.npy` and `labels.npy`: `per_thing` pictures of each thing, shuffled, then scenes.

    Labels are (thing, color); scenes have (-1, -1). Held-out pairs of thing and color never occur.
    """
    drawings = load_drawings(source)
    target.mkdir(parents=True, exist_ok=True)
    edges = [[needs_edge(body, rgb) for rgb in BACKGROUNDS.values()] for body in drawings.things]
    rng = np.random.default_rng(seed)
    pairs = []
    for thing in range(len(THINGS)):
        colors = [color for color in range(len(COLORS)) if not is_held_out(thing, color)]
        pairs += [(thing, colors[i % len(colors)]) for i in range(per_thing)]
    pairs = rng.permutation(pairs).tolist()
    count = len(pairs) + scenes
    pixels = open_memmap(target / "pixels.npy.part", "w+", np.uint8, (count, SIZE, SIZE, 3))
    for index, (thing, color) in enumerate(pairs):
        pixels[index] = render_thing(rng, drawings, thing, color, edges[thing][color])
    for index in range(len(pairs), count):
        pixels[index] = render_scene(rng, drawings)
    pixels.flush()
    labels = np.concatenate([pairs, np.full((scenes, 2), -1)]).astype(np.int16)
    np.save(target / "labels.npy", labels)
    (target / "pixels.npy.part").replace(target / "pixels.npy")
