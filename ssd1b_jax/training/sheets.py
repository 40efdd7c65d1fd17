"""Sheets to look at: every thing once, drawings and what prompts made of them, and the curves of training."""

import itertools
import json
import math
from pathlib import Path

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.training import doodles
from ssd1b_jax.training.pictures import Pixels

# What the doodles, in their order, are to become.
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
}


def draw_all(trial, target: Path) -> None:
    """Write `doodles.png` and `contact-sheet.png`."""
    images.save(images.upscale(sheet(wishes(trial), columns=4), 2), target / "doodles.png")
    papers = itertools.cycle(trial.papers)
    outputs = trial.from_noise(trial.ask(thing, next(papers)) for thing in trial.among)
    images.save(sheet(outputs, columns=math.isqrt(2 * len(outputs))), target / "contact-sheet.png")


def wishes(trial, strength: float = 0.8, seed: int = 7) -> list[Pixels]:
    """A row for each doodle: itself at the model's size, then what its three prompts make of it."""
    height, width, _ = trial.grey.shape
    outputs = []
    for name, texts in WISHES.items():
        pixels = doodles.draw(name)
        outputs.append(images.resize(pixels, width, height))
        outputs += trial.make(dict(image=pixels, prompt=text, strength=strength, seed=seed) for text in texts)
    return outputs


def sheet(pictures: list[Pixels], columns: int, gap: int = 2) -> Pixels:
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
