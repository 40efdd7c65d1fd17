"""`python -m ssd1b_jax.training`: make the embedded model from nothing, step by step or all at once.

Each command does one step and can be killed and given again: it goes on where it was.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
from pathlib import Path

import jax

from ssd1b_jax import Pipeline, config, images
from ssd1b_jax.arguments import Parser
from ssd1b_jax.checkpoints import model_folder
from ssd1b_jax.engine.compile_cache import enable_compilation_cache
from ssd1b_jax.training import autoencoder, data, denoiser, doodles, evaluate, vocabulary
from ssd1b_jax.training.loop import Recipe, averaged
from ssd1b_jax.training.things import THINGS


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Where everything that training makes is kept."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def config(self) -> config.ModelConfig:
        """The embedded model's config, with the scaling factor measured here."""
        model = config.emoji()
        measured = self / "scaling_factor.json"
        if not measured.exists():
            raise RuntimeError(f"{measured} is missing: train the vae first")
        vae = dataclasses.replace(model.vae, scaling_factor=json.loads(measured.read_text()))
        return dataclasses.replace(model, vae=vae)

    def tokenizers(self) -> denoiser.Tokenizers:
        return vocabulary.load(self.folder, config.emoji().text_encoder.max_position_embeddings)


def make_data(work: Workspace, arguments) -> None:
    data.fetch(work / "npm")
    text = config.emoji().text_encoder
    vocabulary.save(
        work.folder, data.load_names(work / "npm"), size=text.vocab_size, length=text.max_position_embeddings
    )
    if not (work / "pictures" / "pixels.npy").exists():
        data.render(work / "npm", work / "pictures", per_thing=arguments.per_thing, scenes=arguments.scenes)


def train_vae(work: Workspace, arguments) -> None:
    recipe = _recipe(autoencoder.RECIPE, arguments)
    params = autoencoder.train_autoencoder(config.emoji(), work / "pictures", work / "vae", recipe)
    factor = denoiser.cache_latents(config.emoji(), params, work / "pictures", work / "latents.npy")
    (work / "scaling_factor.json").write_text(json.dumps(round(factor, 5)))


def train_denoiser(work: Workspace, arguments) -> None:
    model, tokenizers = work.config(), work.tokenizers()
    text = denoiser.train_text(model, tokenizers, work / "text")
    recipe = _recipe(denoiser.RECIPE, arguments)
    latents = work / "latents.npy"
    denoiser.train_denoiser(model, text, tokenizers, work / "pictures", latents, work / "denoiser", recipe)


def export(work: Workspace, arguments) -> None:
    model = work.config()
    shapes = model_folder.abstract_params(model)
    text = {part: shapes[part] for part in ("text_encoder", "text_encoder_2")}
    trained = averaged(work / "denoiser", dict(text=text, unet=shapes["unet"]))
    params = dict(unet=trained["unet"], **trained["text"], vae=averaged(work / "vae", shapes["vae"]))
    model_folder.save_model(
        arguments.target,
        model,
        params,
        tokenizers=work.folder,
        dtype="float16",
        source="trained from scratch by python -m ssd1b_jax.training",
        licence="Apache-2.0",
    )


def fit_preview(work: Workspace, arguments) -> None:
    vae = work.config().vae
    print(autoencoder.fit_preview(work / "latents.npy", work / "pictures", vae.factor, vae.scaling_factor))


def draw(work: Workspace, arguments) -> None:
    arguments.target.mkdir(parents=True, exist_ok=True)
    for name in doodles.DOODLES:
        images.save(doodles.draw(name), arguments.target / f"{name}.png")


def measure(work: Workspace, arguments) -> None:
    enable_compilation_cache()
    drawings = data.load_drawings(work / "npm")
    model = model_folder.load_model(arguments.model, dtype="float32")
    pipe = Pipeline(model)
    inputs = {name: doodles.draw(name) for name in doodles.DOODLES}
    if arguments.photo:
        inputs["photo"] = images.load(arguments.photo).pixels
    target = arguments.target
    target.mkdir(parents=True, exist_ok=True)
    sheet = evaluate.sheet(evaluate.wishes(pipe, inputs), columns=4)
    images.save(images.upscale(sheet, 2), target / "doodles.png")
    images.save(evaluate.contact_sheet(pipe), target / "contact-sheet.png")
    if (work / "denoiser" / "log.jsonl").exists():
        evaluate.draw_curves({"VAE": work / "vae", "UNet and text encoders": work / "denoiser"}, target / "curves.png")
    figures = {"VAE: PSNR in dB": round(evaluate.reconstruction(model, drawings), 2)}
    figures |= evaluate.evaluate(pipe, drawings, arguments.things)
    (target / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, value in figures.items():
        print(f"| {name} | {value} |")


def _recipe(recipe: Recipe, arguments) -> Recipe:
    return recipe if arguments.steps is None else dataclasses.replace(recipe, steps=arguments.steps)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m ssd1b_jax.training", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("data"), help="folder for all that is made (default: data)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(function=function)
        return added

    pictures = command("data", make_data, "fetch the drawings, learn the vocabulary, render the pictures")
    pictures.add_argument("--per-thing", type=int, default=400, help="pictures of each thing (default: 400)")
    pictures.add_argument("--scenes", type=int, default=12_000, help="other pictures, for the VAE (default: 12000)")
    for name, function, recipe, help in (
        ("vae", train_vae, autoencoder.RECIPE, "train the VAE, then encode every picture"),
        ("denoiser", train_denoiser, denoiser.RECIPE, "train the text encoders and the UNet"),
    ):
        trainer = command(name, function, help)
        trainer.add_argument("--steps", type=int, help=f"optimizer steps (default: {recipe.steps})")
    command("preview", fit_preview, "fit the map from latents to colours that previews use")
    drawer = command("doodles", draw, "draw the five doodles")
    drawer.add_argument("target", type=Path, help="the folder for them")
    judge = command("evaluate", measure, "measure a model, and draw its contact sheet and curves")
    judge.add_argument("target", type=Path, help="the folder for figures.json and the sheets")
    judge.add_argument("--model", default="emoji", help="emoji (default) or a model folder")
    judge.add_argument("--photo", type=Path, help="a photograph to remake beside the doodles")
    judge.add_argument(
        "--things", type=int, default=len(THINGS), help=f"how many things to try (default: {len(THINGS)})"
    )
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
    jax.config.update("jax_num_cpu_devices", arguments.cpu_devices)
    try:
        arguments.function(Workspace(arguments.work), arguments)
    except (RuntimeError, OSError, ValueError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
