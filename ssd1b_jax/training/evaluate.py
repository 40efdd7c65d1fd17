"""What the embedded model can do, in figures: `python -m ssd1b_jax.training evaluate`.

Every measurement makes pictures by the same Pipeline that users have, from fixed prompts and
seeds, and asks of each which drawing it is nearest to and which color its background has.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from ssd1b_jax import Pipeline, Request, Result, images
from ssd1b_jax.checkpoints.model_folder import Model
from ssd1b_jax.models import abstract
from ssd1b_jax.training import data
from ssd1b_jax.training.things import BACKGROUNDS, COLORS, NAMES, THINGS, is_held_out, prompt, with_article

GRID = 32  # pixels of a template along each side
PLACEMENTS = list(itertools.product((0.72, 0.8, 0.9, 1.0), (-2.0, 0.0, 2.0), (-2.0, 0.0, 2.0), (False, True)))
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
Picture = UInt8[np.ndarray, "height width 3"]


class Judge:
    """Names the drawing and the background of a picture by template matching.

    The templates are every thing at 4 sizes, 9 places and both ways round, on the picture's own
    background color; the nearest is that with the least mean squared difference in RGB at 32 x 32.
    """

    def __init__(self, drawings: data.Drawings):
        colors, alphas = [], []
        for body in drawings.things:
            for scale, x, y, mirror in PLACEMENTS:
                placed = data.place(body, x=16 + x, y=16 + y, scale=scale, mirror=mirror)
                on_white, on_black = (
                    data.rasterize(placed, color, GRID).astype(np.float32) / 255 for color in ("#ffffff", "#000000")
                )
                colors.append(on_black.reshape(-1))
                alphas.append(1 - (on_white - on_black).mean(-1).reshape(-1))
        self.colors, self.alphas = np.stack(colors), np.stack(alphas)
        self.mixed = np.einsum("tpc,tp->tc", self.colors.reshape(len(colors), -1, 3), self.alphas)
        self.alpha_squares = np.square(self.alphas).sum(1)
        self.color_squares = np.square(self.colors).sum(1)

    def background(self, pixels: Picture) -> int:
        """The nearest named color to the median of the picture's rim."""
        return int(np.square(np.array(list(BACKGROUNDS.values())) - _rim(pixels)).sum(1).argmin())

    def things(self, pixels: Picture) -> np.ndarray:
        """All things, the nearest first."""
        height, width, _ = pixels.shape
        small = pixels.reshape(GRID, height // GRID, GRID, width // GRID, 3).mean((1, 3), dtype=np.float32) / 255
        background = _rim(pixels).astype(np.float32) / 255
        # |p - (c + (1 - a) b)|^2 with q = p - b, leaving out |q|^2, which is the same for all.
        q = (small - background).reshape(-1, 3)
        products = self.colors @ q.reshape(-1) - self.alphas @ (q @ background)
        squares = self.color_squares - 2 * self.mixed @ background + self.alpha_squares * (background @ background)
        distances = (squares - 2 * products).reshape(len(THINGS), len(PLACEMENTS)).min(1)
        return distances.argsort()


def _rim(pixels: Picture) -> Float[np.ndarray, "3"]:
    mask = np.ones(pixels.shape[:2], bool)
    mask[3:-3, 3:-3] = False
    return np.median(pixels[mask], axis=0)


def evaluate(pipe: Pipeline, drawings: data.Drawings, count: int = len(THINGS)) -> dict[str, float]:
    """Shares of pictures that are right, and mean distances; `count` things stand for all where time is short."""
    judge = Judge(drawings)
    chosen = np.linspace(0, len(THINGS) - 1, count).round().astype(int).tolist()
    rng = np.random.default_rng(12345)
    figures = {}

    # What the judge itself makes of pictures that are as they should be.
    true = [data.render_thing(np.random.default_rng(t), drawings, t, t % len(COLORS), False) for t in chosen]
    figures["true pictures: first"] = np.mean([judge.things(x)[0] == t for x, t in zip(true, chosen, strict=True)])

    # Prompts from a plain grey picture at full strength, a background seen and one never seen with the thing.
    grey = np.full((data.SIZE, data.SIZE, 3), 128, np.uint8)
    seen = {thing: int(rng.choice([c for c in range(len(COLORS)) if not is_held_out(thing, c)])) for thing in chosen}
    unseen = {thing: next(c for c in range(len(COLORS)) if is_held_out(thing, c)) for thing in chosen}
    for name, colors in (("seen pairs", seen), ("held-out pairs", unseen)):
        results = _make(pipe, (dict(image=grey, prompt=prompt(t, colors[t]), strength=1.0, seed=t) for t in chosen))
        figures |= {f"{name}: {key}": value for key, value in _identity(judge, results, chosen).items()}
        right = [judge.background(r.pixels) == colors[t] for r, t in zip(results, chosen, strict=True)]
        figures[f"{name}: background"] = np.mean(right)

    for scale in (1.5, pipe.config.defaults.guidance_scale):
        figures |= transform(pipe, judge, drawings, seen, scale)

    for scale in (1.0, 2.0, 3.0, 5.0):
        jobs = (dict(image=grey, prompt=prompt(t, seen[t]), strength=1.0, seed=t, guidance_scale=scale) for t in chosen)
        figures[f"guidance {scale:g}: first"] = _identity(judge, _make(pipe, jobs), chosen)["first"]

    # A color in the negative prompt, where the prompt names none.
    for color in ("blue", "yellow"):
        for name, negative in (("without", None), ("with", f"{with_article(color)} background")):
            jobs = (
                dict(image=grey, prompt=with_article(NAMES[t]), negative_prompt=negative, strength=1.0, seed=t)
                for t in chosen
            )
            share = np.mean([COLORS[judge.background(result.pixels)] == color for result in _make(pipe, jobs)])
            figures[f"{color} backgrounds {name} the negative prompt"] = share

    two = [
        _make(pipe, (dict(image=grey, prompt=prompt(t, seen[t]), strength=1.0, seed=seed + t) for t in chosen))
        for seed in (0, 1000)
    ]
    figures["distance of two seeds"] = np.mean([_distance(a.pixels, b.pixels) for a, b in zip(*two, strict=True)])
    return {name: round(float(value), 4) for name, value in figures.items()}


def transform(
    pipe: Pipeline, judge: Judge, drawings: data.Drawings, colors: dict[int, int], guidance_scale: float
) -> dict[str, float]:
    """From a drawing of each thing to another thing on the same background: what the strength does."""
    figures, sources = {}, list(colors)
    targets = np.roll(sources, 7 % len(sources)).tolist()
    inputs = [data.render_thing(np.random.default_rng(a), drawings, a, colors[a], False) for a in sources]
    for strength in STRENGTHS:
        results = _make(
            pipe,
            (
                dict(image=image, prompt=prompt(b, colors[a]), strength=strength, seed=a, guidance_scale=guidance_scale)
                for image, a, b in zip(inputs, sources, targets, strict=True)
            ),
        )
        nearest = [judge.things(result.pixels)[0] for result in results]
        name = f"guidance {guidance_scale:g}, strength {strength}"
        figures[f"{name}: still the input"] = np.mean(np.equal(nearest, sources))
        figures[f"{name}: is the prompt"] = np.mean(np.equal(nearest, targets))
        distances = [_distance(result.pixels, image) for result, image in zip(results, inputs, strict=True)]
        figures[f"{name}: distance to the input"] = np.mean(distances)
    return figures


def _make(pipe: Pipeline, settings: Iterable[dict]) -> list[Result]:
    return pipe.generate(Request(**each) for each in settings)


def _identity(judge: Judge, results: list[Result], things) -> dict[str, float]:
    ranks = [list(judge.things(result.pixels)).index(thing) for result, thing in zip(results, things, strict=True)]
    return {"first": np.mean(np.array(ranks) == 0), "first five": np.mean(np.array(ranks) < 5)}


def _distance(a: Picture, b: Picture) -> float:
    """Root mean square difference of pixels, as a share of the full range."""
    return float(np.sqrt(np.square((a.astype(float) - b) / 255).mean()))


def reconstruction(model: Model, drawings: data.Drawings, count: int = 128) -> float:
    """Mean PSNR in dB of fresh training-style pictures through encoder, posterior mean and decoder."""
    graphdef, _ = abstract("vae", model.config)

    @jax.jit
    def squared_error(params, image):
        vae = nnx.merge(graphdef, params)
        return jnp.square((jnp.clip(vae.decode(vae.encode(image).mean), -1, 1) - image) / 2).mean()

    rng = np.random.default_rng(54321)
    errors = []
    for _ in range(count):
        thing, color = int(rng.integers(len(THINGS))), int(rng.integers(len(COLORS)))
        image = images.to_model(data.render_thing(rng, drawings, thing, color, False))
        errors.append(squared_error(model.params["vae"], image[None]))
    return float(-10 * np.log10(errors).mean())


def contact_sheet(pipe: Pipeline, seed: int = 0) -> Picture:
    """Every thing once, on each background in turn, in the order of THINGS: successes and failures alike."""
    grey = np.full((data.SIZE, data.SIZE, 3), 128, np.uint8)
    count = len(THINGS)
    results = _make(
        pipe, (dict(image=grey, prompt=prompt(t, t % len(COLORS)), strength=1.0, seed=seed + t) for t in range(count))
    )
    return sheet([result.pixels for result in results], columns=12)


# What the doodles, in their order, and last a photograph are to become.
WISHES = {
    "face": ("a smiling face on a blue background", "a lion on a green background", "a pumpkin on a blue background"),
    "house": (
        "a house on a blue background",
        "a castle on a purple background",
        "a birthday cake on a pink background",
    ),
    "tree": ("a tree on a yellow background", "a mushroom on a blue background", "a palm tree on an orange background"),
    "fish": ("a fish on a blue background", "a whale on a white background", "a crab on a white background"),
    "apple": (
        "a red apple on a white background",
        "a strawberry on a green background",
        "a red heart on a pink background",
    ),
    "photo": ("a cat on a blue background", "a panda on a yellow background", "a robot on a purple background"),
}


def wishes(pipe: Pipeline, inputs: dict[str, Picture], strength: float = 0.8, seed: int = 7) -> list[Picture]:
    """A row for each input: itself at the model's size, then what its three prompts make of it."""
    pictures = []
    for name, pixels in inputs.items():
        pictures.append(images.resize(pixels, data.SIZE, data.SIZE))
        results = _make(pipe, (dict(image=pixels, prompt=text, strength=strength, seed=seed) for text in WISHES[name]))
        pictures += [result.pixels for result in results]
    return pictures


def sheet(pictures: list[Picture], columns: int, gap: int = 2) -> Picture:
    """Pictures of one size on a white sheet, row by row."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, pixels in enumerate(pictures):
        y, x = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        page[y : y + height, x : x + width] = pixels
    return page


def draw_curves(runs: dict[str, Path], target: Path) -> None:
    """The loss of each run against the pictures it has seen, from the runs' logs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(runs), 3.2), layout="constrained")
    for axes, (name, run) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        reports = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        axes.plot([report["pictures"] for report in reports], [report["loss"] for report in reports], linewidth=1)
        axes.set(title=name, xlabel="pictures seen", ylabel="loss", yscale="log")
        axes.grid(True, alpha=0.3)
    figure.savefig(target, dpi=100)
