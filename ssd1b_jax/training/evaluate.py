"""What the embedded model can do, in figures: `python -m ssd1b_jax.training evaluate`.

Every measurement makes pictures by the same Pipeline that users have, from fixed prompts and
seeds, and asks the `Judge` what is in them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax import Pipeline, Request, images
from ssd1b_jax.checkpoints.model_folder import Model
from ssd1b_jax.models import abstract
from ssd1b_jax.training import captions, pictures, sheets
from ssd1b_jax.training.artwork import Sprite, Sprites
from ssd1b_jax.training.judge import Judge, cut_out, degree
from ssd1b_jax.training.pictures import Pixels, Scene
from ssd1b_jax.training.things import (
    COLORS,
    NAMES,
    QUALITY_NAMES,
    STYLE_NAMES,
    THINGS,
    is_held_out,
    is_held_out_color,
    prompt,
    with_article,
)

CENTRED = Scene(0, 0, 0, -1, 0.85, 0.5, 0.5, 0.0, False, -1, -1, 0)
STRENGTHS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
GUIDANCES = (1.0, 2.0, 4.0, 8.0)
STEPS = (4, 8, 15, 30)
PLACES = dict(left=(0.3, 0.5), right=(0.7, 0.5), top=(0.5, 0.3), bottom=(0.5, 0.7))


@dataclass(frozen=True)
class Trial:
    """A model under measurement, and the things that stand for all.

    `ask` writes the prompt for a thing on a background; `among` and `papers` are those that the model knows.
    """

    pipe: Pipeline
    model: Model
    sprites: Sprites
    held_out: list[Sprite] = field(default_factory=list)
    count: int = 100
    ask: Callable[[int, int], str] = prompt
    among: Sequence[int] = range(len(THINGS))
    papers: Sequence[int] = range(len(COLORS))

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.sprites)

    @cached_property
    def chosen(self) -> list[int]:
        count = min(self.count, len(self.among))
        return [self.among[i] for i in np.linspace(0, len(self.among) - 1, count).round().astype(int)]

    @property
    def grey(self) -> Pixels:
        size = self.model.config.defaults
        return np.full((size.height, size.width, 3), 128, np.uint8)

    def make(self, settings: Iterable[dict]) -> list[Pixels]:
        return [result.pixels for result in self.pipe.generate(Request(**each) for each in settings)]

    def from_noise(self, prompts: Iterable[str], seed: int = 0, **settings) -> list[Pixels]:
        """A picture of each prompt, at full strength from plain grey."""
        return self.make(
            dict(image=self.grey, prompt=text, strength=1.0, seed=seed + i) | settings for i, text in enumerate(prompts)
        )

    def seen(self, thing: int) -> int:
        """A background that training showed the thing on."""
        return (5 * thing + 3 + 1 + thing % (len(COLORS) - 1)) % len(COLORS)

    def unseen(self, thing: int) -> int:
        return next(color for color in range(len(COLORS)) if is_held_out(thing, color))

    def identity(self, outputs: list[Pixels], things, name: str) -> dict[str, float]:
        """How often the thing that was asked for is the nearest of those that the model knows, or among five."""
        known = set(self.among)
        ranks = [
            [other for other in self.judge.things(pixels).tolist() if other in known].index(thing)
            for pixels, thing in zip(outputs, things, strict=True)
        ]
        return {f"{name}: first": np.mean(np.equal(ranks, 0)), f"{name}: first five": np.mean(np.less(ranks, 5))}


def autoencoder(trial: Trial) -> dict[str, float]:
    """Mean PSNR of drawings that training never had, on plain backgrounds; and how white white is."""
    graphdef, _ = abstract("vae", trial.model.config)

    @jax.jit
    def reconstruct(params, image):
        vae = nnx.merge(graphdef, params)
        return jnp.clip(vae.decode(vae.encode(image).mean), -1, 1)

    errors, whites = [], []
    for index, sprite in enumerate(trial.held_out):
        scene = CENTRED._replace(background=index % len(COLORS), seed=index)
        image = images.to_model(pictures.draw_sprite(sprite, scene, trial.model.config.defaults.width))[None]
        remade = np.asarray(reconstruct(trial.model.params["vae"], image))
        errors.append(np.square((remade - image) / 2).mean())
        if COLORS[scene.background] == "white":
            pure = image.min(-1) == 1
            whites.append((np.round((remade + 1) * 127.5) == 255).all(-1)[pure].mean())
    return {
        "autoencoder: PSNR in dB": float(-10 * np.log10(errors).mean()),
        "autoencoder: white is 255": np.mean(whites),
    }


def prompts(trial: Trial) -> dict[str, float]:
    """Things on backgrounds of the training data, and on held-out backgrounds."""
    figures = {}
    for name, choose in (("seen pairs", trial.seen), ("held-out pairs", trial.unseen)):
        outputs = trial.from_noise(prompt(thing, choose(thing)) for thing in trial.chosen)
        figures |= trial.identity(outputs, trial.chosen, name)
        right = [trial.judge.background(x) == choose(t) for x, t in zip(outputs, trial.chosen, strict=True)]
        figures[f"{name}: background"] = np.mean(right)
    return figures


def colors(trial: Trial) -> dict[str, float]:
    """Things in colors of the training data, and in held-out colors."""
    figures = {}
    for name, held_out in (("seen colors", False), ("held-out colors", True)):
        wanted = [
            next(c for k in range(len(COLORS)) if is_held_out_color(t, c := (t + k) % len(COLORS)) == held_out)
            for t in trial.chosen
        ]
        scenes = [
            CENTRED._replace(thing=t, color=c, background=(c + 5) % len(COLORS))
            for t, c in zip(trial.chosen, wanted, strict=True)
        ]
        outputs = trial.from_noise(captions.plain(scene) for scene in scenes)
        right = [trial.judge.color(x, s.thing) == s.color for x, s in zip(outputs, scenes, strict=True)]
        figures[f"{name}: color"] = np.mean(right)
        first = [trial.judge.things(x, s.color)[0] == s.thing for x, s in zip(outputs, scenes, strict=True)]
        figures[f"{name}: first"] = np.mean(first)
    return figures


def styles(trial: Trial) -> dict[str, float]:
    """Whether the nearest drawing of the thing is of the style that was asked for."""
    figures = {}
    for style, name in enumerate(STYLE_NAMES[:4]):
        scenes = [CENTRED._replace(thing=t, style=style, background=trial.seen(t)) for t in trial.chosen]
        outputs = trial.from_noise(captions.plain(scene) for scene in scenes)
        figures[f"style {name}"] = np.mean(
            [trial.judge.style(x, s.thing) == style for x, s in zip(outputs, scenes, strict=True)]
        )
    return figures


def places(trial: Trial) -> dict[str, float]:
    """Where things are and how large, by what was asked for."""
    figures = {}
    for name, (x, y) in PLACES.items():
        scenes = [CENTRED._replace(thing=t, x=x, y=y, scale=0.5, background=trial.seen(t)) for t in trial.chosen]
        cuts = [cut_out(pixels) for pixels in trial.from_noise(captions.plain(scene) for scene in scenes)]
        offsets = [(cut.x if y == 0.5 else cut.y) - 0.5 for cut in cuts]
        figures[f"place {name}"] = np.mean([offset * ((x if y == 0.5 else y) - 0.5) > 0.02 for offset in offsets])
    for size in ("small", "large"):
        texts = (f"a {size} {NAMES[t]} on a {COLORS[trial.seen(t)]} background" for t in trial.chosen)
        figures[f"mean size, {size}"] = np.mean([cut_out(pixels).scale for pixels in trial.from_noise(texts)])
    return figures


def strengths(trial: Trial) -> dict[str, float]:
    """From a drawing of each thing, and from a crude drawing on white paper, to another thing elsewhere."""
    figures = {}
    targets = np.roll(trial.chosen, 7 % len(trial.chosen)).tolist()
    kinds = {"drawing": 0, "crude drawing on white": STYLE_NAMES.index("crude")}
    for kind, style in kinds.items():
        inputs = []
        for thing in trial.chosen:
            paper = COLORS.index("white") if style else trial.seen(thing)
            scene = CENTRED._replace(thing=thing, style=style, background=paper, seed=thing)
            inputs.append(pictures.draw(trial.sprites, scene, trial.model.config.defaults.width))
        for strength in STRENGTHS:
            wanted = [trial.seen(t) for t in targets]
            outputs = trial.make(
                dict(image=image, prompt=prompt(t, color), strength=strength, seed=t)
                for image, t, color in zip(inputs, targets, wanted, strict=True)
            )
            nearest = [trial.judge.things(pixels)[0] for pixels in outputs]
            name = f"{kind}, strength {strength}"
            figures[f"{name}: still the input"] = np.mean(np.equal(nearest, trial.chosen))
            figures[f"{name}: is the prompt"] = np.mean(np.equal(nearest, targets))
            figures[f"{name}: background"] = np.mean(np.equal([trial.judge.background(x) for x in outputs], wanted))
            figures[f"{name}: distance"] = np.mean([distance(a, b) for a, b in zip(outputs, inputs, strict=True)])
    return figures


def negatives(trial: Trial) -> dict[str, float]:
    """How much pictures have of a quality that the prompt names, without and with it in the negative prompt."""
    figures = {}
    for quality in QUALITY_NAMES:
        texts = [f"{prompt(t, trial.seen(t))}, {quality}" for t in trial.chosen]
        for name, negative in (("", None), (", negative prompt", quality)):
            outputs = trial.from_noise(texts, negative_prompt=negative)
            figures[f"{quality}{name}"] = np.mean([degree(pixels, quality) for pixels in outputs])
    for color in ("blue", "yellow"):
        texts = [with_article(NAMES[t]) for t in trial.chosen]
        for name, negative in (("", None), (", negative prompt", f"{with_article(color)} background")):
            outputs = trial.from_noise(texts, negative_prompt=negative)
            share = np.mean([COLORS[trial.judge.background(pixels)] == color for pixels in outputs])
            figures[f"{color} backgrounds{name}"] = share
    return figures


def settings(trial: Trial) -> dict[str, float]:
    """What guidance, steps and seeds move."""
    figures = {}
    texts = [prompt(t, trial.seen(t)) for t in trial.chosen]
    for scale in GUIDANCES:
        outputs = trial.from_noise(texts, guidance_scale=scale)
        figures[f"guidance {scale:g}: first"] = trial.identity(outputs, trial.chosen, "")[": first"]
    most = trial.from_noise(texts, num_inference_steps=60)
    for steps in STEPS:
        outputs = trial.from_noise(texts, num_inference_steps=steps)
        distances = [distance(a, b) for a, b in zip(outputs, most, strict=True)]
        figures[f"{steps} steps: distance to 60"] = np.mean(distances)
    others = trial.from_noise(texts, seed=1000)
    figures["distance of two seeds"] = np.mean([distance(a, b) for a, b in zip(most, others, strict=True)])
    return figures


def few_steps(trial: Trial) -> dict[str, float]:
    """The thing and the background that were asked for, by default and by `fast`: from noise, and from drawings.

    Backgrounds are white, as every world has it, and the drawings are of other things.
    """
    figures, white = {}, COLORS.index("white")
    others = np.roll(trial.chosen, 7 % len(trial.chosen)).tolist()
    width = trial.model.config.defaults.width
    drawn = [
        pictures.draw(trial.sprites, CENTRED._replace(thing=thing, background=white, seed=thing), width)
        for thing in others
    ]
    for name, settings in (("default steps", {}), ("fast", dict(fast=True))):
        outputs = trial.from_noise((trial.ask(thing, white) for thing in trial.chosen), **settings)
        figures |= trial.identity(outputs, trial.chosen, name)
        figures[f"{name}: background"] = np.mean([trial.judge.background(pixels) == white for pixels in outputs])
        outputs = trial.make(
            dict(image=image, prompt=trial.ask(thing, white), strength=0.8, seed=thing) | settings
            for image, thing in zip(drawn, trial.chosen, strict=True)
        )
        figures |= trial.identity(outputs, trial.chosen, f"{name}, from a drawing at strength 0.8")
    return figures


PARTS: dict[str, Callable[[Trial], dict[str, float]]] = {
    part.__name__: part
    for part in (autoencoder, prompts, colors, styles, places, strengths, negatives, settings, few_steps)
}


def measure(trial: Trial, target: Path, only: list[str] | None = None) -> dict[str, float]:
    """The figures of `only` these PARTS, or of all; written to `figures.json`, with sheets, in `target`."""
    file = target / "figures.json"
    figures = json.loads(file.read_text()) if only and file.exists() else {}
    for name in only or PARTS:
        measured = PARTS[name](trial)
        figures |= {row: round(float(value), 4) for row, value in measured.items()}
        file.write_text(json.dumps(figures, indent=1) + "\n")
    sheets.draw_all(trial, target)
    return figures


def distance(a: Pixels, b: Pixels) -> float:
    """Root mean square difference of pixels, as a share of the full range."""
    return float(np.sqrt(np.square((a.astype(float) - b) / 255).mean()))
