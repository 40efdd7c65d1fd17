"""`python -m ssd1b_jax.training`: make the embedded model from nothing, step by step.

Each command does one step and can be killed and given again: it goes on where it was.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import sys
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from ssd1b_jax import Pipeline, config, images
from ssd1b_jax.arguments import Parser, run
from ssd1b_jax.checkpoints import model_folder, model_json
from ssd1b_jax.engine.compile_cache import enable_compilation_cache
from ssd1b_jax.errors import TrainingError
from ssd1b_jax.prompts import known
from ssd1b_jax.training import (
    artwork,
    autoencoder,
    denoiser,
    distillation,
    doodles,
    enlarging,
    evaluate,
    latents,
    pictures,
    sheets,
    shipped,
    vocabulary,
    words,
)
from ssd1b_jax.training.captions import Writer
from ssd1b_jax.training.loop import Recipe, averaged
from ssd1b_jax.training.model import emoji_128


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Where everything that training makes is kept."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @cached_property
    def sprites(self) -> artwork.Sprites:
        return artwork.Sprites.load(self.folder)

    @cached_property
    def artwork(self) -> artwork.Artwork:
        return artwork.Artwork(self / "npm")

    @cached_property
    def writer(self) -> Writer:
        return Writer(words.words_of(self.artwork), pictures.natural_colors(self.sprites))

    def config(self) -> config.ModelConfig:
        """The embedded model's config, with the scaling factor measured here."""
        model = emoji_128()
        measured = self / "scaling_factor.json"
        if not measured.exists():
            raise TrainingError(f"{measured} is missing: make the latents first")
        vae = dataclasses.replace(model.vae, scaling_factor=json.loads(measured.read_text()))
        return dataclasses.replace(model, vae=vae)

    def tokenizers(self) -> denoiser.Tokenizers:
        return vocabulary.load(self.folder, emoji_128().text_encoder.max_position_embeddings)

    def vae(self):
        """The averaged parameters of the autoencoder: of the last of its runs that there is."""
        shapes = model_folder.abstract_params(emoji_128())["vae"]
        runs = [self / "vae" / name for name in autoencoder.RUNS]
        begun = [run for run in runs if (run / "checkpoints").exists()]
        return averaged((begun or runs)[-1], shapes)


def make_data(work: Workspace, arguments) -> None:
    artwork.fetch(work / "npm")
    _write_words(work.folder, {"words": words.known_words(work.artwork)})
    _write_words(work / "shipped", shipped.known_words(work.artwork))
    text = emoji_128().text_encoder
    spoken = 3 * words.phrases(work.artwork) + list(work.artwork.emoji)  # the names of all emoji, to read others well
    vocabulary.save(work.folder, spoken, size=text.vocab_size, length=text.max_position_embeddings)
    if not (work / "sprites.npy").exists():
        artwork.render_sprites(work.artwork, work.folder)


def _write_words(folder: Path, listed: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / known.FILE).write_text(json.dumps(listed, ensure_ascii=False, indent=0) + "\n", "utf-8")


def train_vae(work: Workspace, arguments) -> None:
    windows, whole = (_recipe(recipe, steps) for recipe, steps in _runs(arguments.steps))
    autoencoder.train_autoencoder(emoji_128(), work.sprites, work / "vae", windows, whole)


def _runs(steps: list[int] | None):
    recipes = autoencoder.WINDOWS, autoencoder.RECIPE
    return zip(recipes, steps or (None, None), strict=True)


def make_latents(work: Workspace, arguments) -> None:
    latents.make(emoji_128(), work.vae(), work.sprites, work / "latents", arguments.shards, workers=arguments.workers)
    if not (work / "scaling_factor.json").exists():
        factor = latents.Latents.load(work / "latents").scaling_factor()
        (work / "scaling_factor.json").write_text(json.dumps(round(factor, 5)))


def train_denoiser(work: Workspace, arguments) -> None:
    model, tokenizers = work.config(), work.tokenizers()
    text = denoiser.train_text(model, tokenizers, work.writer, work / "text")
    recipe = _recipe(denoiser.RECIPE, arguments.steps)
    data = latents.Latents.load(work / "latents")
    denoiser.train_denoiser(model, text, tokenizers, work.writer, data, work / "denoiser", recipe)


def export(work: Workspace, arguments) -> None:
    model = work.config()
    shapes = model_folder.abstract_params(model)
    text = {part: shapes[part] for part in ("text_encoder", "text_encoder_2")}
    trained = averaged(work / "denoiser", dict(text=text, unet=shapes["unet"]))
    params = dict(unet=trained["unet"], **trained["text"], vae=work.vae())
    model_folder.save_model(
        arguments.target,
        model,
        params,
        tokenizers=work.folder,
        dtype="float16",
        source="trained from scratch by python -m ssd1b_jax.training",
        licence="Apache-2.0",
    )
    (arguments.target / known.FILE).write_bytes((work / known.FILE).read_bytes())


def distil(work: Workspace, arguments) -> None:
    model = model_folder.load_model(arguments.model, dtype="float32")
    recipe, run = _recipe(distillation.RECIPE, arguments.steps), work / "few-steps"
    drawn, writer = work / "latents", work.writer
    if arguments.model == "emoji":  # that ships: it has a world and an autoencoder of its own
        drawn, writer, run = work / "shipped" / "latents", shipped.Writer(), work / "shipped" / "few-steps"
        make = functools.partial(latents.make, workers=os.cpu_count() or 1, sample=shipped.sample)
        make(model.config, model.params["vae"], work.sprites, drawn, arguments.shards)
    data = latents.Latents.load(drawn)
    tokenizers = vocabulary.load(model.folder, model.config.text_encoder.max_position_embeddings)
    factors = distillation.distil(model.config, model.params, tokenizers, writer, data, run, recipe)
    distillation.save(arguments.target, factors, model.config)


def enlarge(work: Workspace, arguments) -> None:
    model = model_folder.load_model(arguments.model, dtype="float32")
    recipe = _recipe(enlarging.RECIPE, arguments.steps)
    vae = enlarging.train_larger(model.config, model.params["vae"], work.sprites, work / "larger", recipe)
    config, params = enlarging.enlarged(model.config, model.params, vae)
    about = dict(dtype="float16", source=model.manifest.source, licence=model.manifest.licence)
    model_folder.save_model(arguments.target, config, params, tokenizers=model.folder, **about)
    for name in (known.FILE, model_json.FEW_STEPS):
        if (model.folder / name).exists():
            (arguments.target / name).write_bytes((model.folder / name).read_bytes())


def fit_preview(work: Workspace, arguments) -> None:
    vae, data = work.config().vae, latents.Latents.load(work / "latents")
    pixels = np.stack(
        [pictures.draw(work.sprites, data.scene(index), work.config().defaults.width) for index in range(500)]
    )
    print(autoencoder.fit_preview(data.targets[:500], pixels, vae.factor, vae.scaling_factor))


def draw(work: Workspace, arguments) -> None:
    arguments.target.mkdir(parents=True, exist_ok=True)
    for name in doodles.DOODLES:
        images.save(doodles.draw(name), arguments.target / f"{name}.png")


def measure(work: Workspace, arguments) -> None:
    model = model_folder.load_model(arguments.model, dtype="float32")
    target = arguments.target
    target.mkdir(parents=True, exist_ok=True)
    runs = {"VAE": work / "vae" / "windows", "UNet and text encoders": work / "denoiser"}
    if all((run / "log.jsonl").exists() for run in runs.values()):
        sheets.draw_curves(runs, target / "curves.png")
    held_out = artwork.held_out(work.artwork)
    world = dict(ask=shipped.prompt, among=shipped.DRAWN, papers=shipped.PAPERS) if arguments.model == "emoji" else {}
    trial = evaluate.Trial(Pipeline(model), model, work.sprites, held_out, arguments.things, **world)
    figures = evaluate.measure(trial, target, arguments.only)
    for name, value in figures.items():
        print(f"| {name} | {value} |")


def _recipe(recipe: Recipe, steps: int | None) -> Recipe:
    return recipe if steps is None else dataclasses.replace(recipe, steps=steps)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m ssd1b_jax.training", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("data"), help="folder for all that is made (default: data)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(function=function)
        return added

    command("data", make_data, "fetch the artwork, draw it as sprites, learn the vocabulary")
    coder = command("vae", train_vae, "train the autoencoder, on windows and then on whole pictures")
    coder.add_argument("--steps", type=int, nargs=2, metavar=("WINDOWS", "WHOLE"), help="optimizer steps of both runs")
    encoder = command("latents", make_latents, "draw pictures and encode them")
    encoder.add_argument("--shards", type=int, default=30, help=f"of {latents.SHARD} pictures in all (default: 30)")
    encoder.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that draw (default: cores)"
    )
    trainer = command("denoiser", train_denoiser, "train the text encoders and the UNet")
    trainer.add_argument("--steps", type=int, help=f"optimizer steps (default: {denoiser.RECIPE.steps})")
    teacher = command("distil", distil, "train a LoRA for four steps without guidance")
    teacher.add_argument("target", type=Path, help="the .safetensors file to write")
    teacher.add_argument("--model", required=True, help="the model folder that export wrote, or emoji: that ships")
    teacher.add_argument("--shards", type=int, default=6, help=f"for emoji, of {latents.SHARD} pictures (default: 6)")
    teacher.add_argument("--steps", type=int, help=f"optimizer steps (default: {distillation.RECIPE.steps})")
    larger = command("enlarge", enlarge, "train a VAE of twice the pixels for a model's latents")
    larger.add_argument("target", type=Path, help="the folder to make")
    larger.add_argument("--model", required=True, help="the model folder, or emoji: that ships")
    larger.add_argument("--steps", type=int, help=f"optimizer steps (default: {enlarging.RECIPE.steps})")
    command("preview", fit_preview, "fit the map from latents to colors that previews use")
    drawer = command("doodles", draw, "draw the five doodles")
    drawer.add_argument("target", type=Path, help="the folder for them")
    judge = command("evaluate", measure, "measure a model, and draw its sheets and curves")
    judge.add_argument("target", type=Path, help="the folder for figures.json and the sheets")
    judge.add_argument("--model", default="emoji", help="emoji (default) or a model folder")
    judge.add_argument("--only", nargs="+", choices=list(evaluate.PARTS), help="these parts of the measurement alone")
    judge.add_argument("--things", type=int, default=100, help="how many things to try (default: 100)")
    exporter = command("export", export, "write the averaged weights as a model folder")
    exporter.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument(
        "--cpu-devices",
        type=int,
        default=math.gcd(os.cpu_count() or 1, 16),
        metavar="N",
        help="on a CPU: share batches out to N threads of work",
    )
    arguments = parser.parse_args(argv)
    enable_compilation_cache()
    jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    return run(lambda: arguments.function(Workspace(arguments.work), arguments))


if __name__ == "__main__":
    sys.exit(main())
