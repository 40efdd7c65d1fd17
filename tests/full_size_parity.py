"""A full-size model of random weights against diffusers and transformers on PyTorch, in float32.

    python tests/full_size_parity.py FOLDER [--preset ssd_1b] [--only text vae unet img2img bfloat16]

makes a diffusers folder under FOLDER and converts it (9 GB each for SSD-1B, kept for the next time);
then gives the same arrays to each network of both, and to both pipelines the same picture, prompt
and seed and nothing else. Every computation has a process of its own, so that one model is in memory
at a time. bfloat16 is ours alone, held against what `img2img` made in float32, in this run or one
before. Ends with exit code 1 where a bound is missed.

An error is the largest difference over the largest value of PyTorch's; seconds are of one call,
compilation included.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from full_size import make, measured

from convert.to_model import convert
from ssd1b_jax import Pipeline, images, presets
from ssd1b_jax.checkpoints import orbax
from ssd1b_jax.checkpoints.model_json import read_manifest
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import abstract, prepack

TOLERANCE = 1e-4  # of a network's output: some hundred layers of float32
PIXELS = 1  # of 255, of a picture: values that are rounded either way
SIZE, PICTURE_SIZE = 512, 256
THEIRS, OURS = "PyTorch", "ours"
SETTINGS = dict(
    prompt="a red apple", num_inference_steps=8, strength=0.5, guidance_scale=5.0,
    original_size=(PICTURE_SIZE, PICTURE_SIZE), target_size=(PICTURE_SIZE, PICTURE_SIZE),
)  # fmt: skip
SEED = 7

Arrays = dict[str, np.ndarray]
Calls = Iterator[tuple[str, Callable[[], Arrays]]]  # what is computed, and the call that does


class Inputs(NamedTuple):
    """What the networks are given, images as ours take them."""

    tokens: np.ndarray
    image: np.ndarray
    encoded: np.ndarray  # latents as the VAE's decoder takes them
    latents: np.ndarray
    timesteps: np.ndarray
    context: np.ndarray
    pooled: np.ndarray
    time_ids: np.ndarray


def inputs(model: ModelConfig) -> Inputs:
    """The same at every call: a prompt's tokens and an absent one's, a picture, the guidance pair."""
    rng = np.random.default_rng(1)
    size, length = model.text_encoder.vocab_size, model.text_encoder.max_position_embeddings
    tokens = rng.integers(0, size - 2, (2, length))
    tokens[:, 0], tokens[0, 12:], tokens[1, 1:] = size - 2, size - 1, size - 1
    latents = rng.standard_normal((1, SIZE // model.vae.factor, SIZE // model.vae.factor, 4), np.float32)
    return Inputs(
        tokens=tokens,
        image=images.to_model(picture(SIZE))[None],
        encoded=latents / np.float32(model.vae.scaling_factor),
        latents=np.repeat(latents, 2, axis=0),
        timesteps=np.full(2, 501.0, np.float32),
        context=rng.standard_normal((2, length, model.unet.cross_attention_dim), np.float32),
        pooled=rng.standard_normal((2, model.unet.pooled_dim), np.float32),
        time_ids=np.array([[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2, np.float32),
    )


def picture(size: int) -> np.ndarray:
    """Smooth, as photographs are."""
    y, x = np.mgrid[0:size, 0:size] / size
    channels = [x, y, (np.sin(9 * x) * np.cos(7 * y) + 1) / 2]
    return (255 * np.stack(channels, axis=-1)).astype(np.uint8)


def their_text(folder: Path, given: Inputs) -> Calls:
    import torch
    import transformers

    def encode(encoder):
        made = encoder(torch.from_numpy(given.tokens), output_hidden_states=True)
        pooled = made.text_embeds if "text_embeds" in made else made.pooler_output
        return dict(hidden=made.hidden_states[-2].numpy(), pooled=pooled.numpy())

    kinds = dict(text_encoder=transformers.CLIPTextModel, text_encoder_2=transformers.CLIPTextModelWithProjection)
    for part, kind in kinds.items():
        encoder = kind.from_pretrained(folder / part)
        yield part, lambda encoder=encoder: encode(encoder)


def our_text(folder: Path, given: Inputs) -> Calls:
    for part in ("text_encoder", "text_encoder_2"):
        network = Network(folder, part)
        yield part, lambda network=network: network(lambda encoder, x: encoder(x)._asdict(), given.tokens)


def their_vae(folder: Path, given: Inputs) -> Calls:
    import diffusers

    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")

    def encode():
        posterior = vae.encode(_nchw(given.image)).latent_dist
        return dict(mean=_nhwc(posterior.mean), log_variance=_nhwc(posterior.logvar))

    yield "VAE encoder", encode
    yield "VAE decoder", lambda: dict(image=_nhwc(vae.decode(_nchw(given.encoded)).sample))


def our_vae(folder: Path, given: Inputs) -> Calls:
    vae = Network(folder, "vae")
    yield "VAE encoder", lambda: vae(lambda vae, image: vae.encode(image)._asdict(), given.image)
    yield "VAE decoder", lambda: vae(lambda vae, latents: dict(image=vae.decode(latents)), given.encoded)


def their_unet(folder: Path, given: Inputs) -> Calls:
    import diffusers
    import torch

    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    timesteps, context, pooled, time_ids = map(torch.from_numpy, given[-4:])
    added = dict(text_embeds=pooled, time_ids=time_ids)

    def denoise():
        return dict(eps=_nhwc(unet(_nchw(given.latents), timesteps, context, added_cond_kwargs=added).sample))

    yield "UNet", denoise


def our_unet(folder: Path, given: Inputs) -> Calls:
    unet = Network(folder, "unet")
    yield "UNet", lambda: unet(lambda unet, *arrays: dict(eps=unet(*arrays)), *given[-5:])


def their_img2img(folder: Path, given: Inputs) -> Calls:
    import diffusers
    import torch

    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    seen = []

    def remake():
        made = pipeline(
            image=images.to_pil(picture(PICTURE_SIZE)),
            generator=torch.Generator("cpu").manual_seed(SEED),
            callback_on_step_end=lambda pipeline, step, timestep, held: seen.append(held["latents"]) or {},
            **SETTINGS,
        )
        return dict(latents=_nhwc(seen[-1])[0], pixels=np.asarray(made.images[0]), steps=np.array(len(seen)))

    yield "img2img", remake


def our_img2img(folder: Path, given: Inputs, dtype: str = "float32") -> Calls:
    pipeline, seen = Pipeline.from_pretrained(folder, dtype=dtype), []
    run = pipeline.runner.run

    def watched(name, program, *arguments):
        if name == "decode":
            seen.append(np.asarray(arguments[1])[0, 0])
        return run(name, program, *arguments)

    pipeline.runner.run = watched

    def remake():
        sizes = dict(width=PICTURE_SIZE, height=PICTURE_SIZE)
        result = pipeline(image=picture(PICTURE_SIZE), seed=SEED, noise="torch", **sizes, **SETTINGS)
        return dict(latents=seen[-1], pixels=result.pixels, steps=np.array(result.steps_run))

    yield "img2img" if dtype == "float32" else dtype, remake


def our_bfloat16(folder: Path, given: Inputs) -> Calls:
    yield from our_img2img(folder, given, "bfloat16")


CHECKS = {  # the sides of each
    "text": (their_text, our_text),
    "vae": (their_vae, our_vae),
    "unet": (their_unet, our_unet),
    "img2img": (their_img2img, our_img2img),
    "bfloat16": (our_bfloat16,),
}
MADE = {  # what they compute
    "text": ("text_encoder", "text_encoder_2"),
    "vae": ("VAE encoder", "VAE decoder"),
    "unet": ("UNet",),
    "img2img": ("img2img",),
    "bfloat16": (),
}


class Network:
    """A part of a model folder, with its parameters laid out as `Pipeline` has them on a CPU."""

    def __init__(self, folder: Path, part: str):
        model = read_manifest(folder).config
        self._params = prepack(part, model, orbax.load(folder / part, abstract(part, model)[1]), "cpu")
        self._graphdef = abstract(part, model, platform="cpu")[0]

    def __call__(self, call: Callable, *arrays: np.ndarray) -> Arrays:
        def traced(params, *arrays):
            return call(nnx.merge(self._graphdef, params), *arrays)

        with jax.default_matmul_precision("highest"):
            made = jax.jit(traced)(self._params, *arrays)
        return {name: np.asarray(array) for name, array in made.items()}


def _nchw(image: np.ndarray):
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 1)))


def _nhwc(image) -> np.ndarray:
    return np.moveaxis(image.numpy(), 1, -1)


def compute(side: Callable, source: Path, results: Path, model: ModelConfig) -> None:
    """Make every call of one side, and keep what it gives and its seconds; in a process of its own."""
    if results.name == THEIRS:
        import diffusers
        import torch
        import transformers

        torch.set_grad_enabled(False)
        for library in (diffusers, transformers.utils):
            library.logging.disable_progress_bar()
            library.logging.set_verbosity_error()
    results.mkdir(exist_ok=True)
    for what, call in side(source, inputs(model)):
        began = time.perf_counter()
        made = call()
        np.savez(results / f"{what}.npz", seconds=time.perf_counter() - began, **made)


def compare(folder: Path, what: str) -> Iterator[tuple[str, bool]]:
    """A line of the table for each array of a computation, and whether it is within its bound."""
    ours, theirs = (dict(np.load(folder / side / f"{what}.npz")) for side in (OURS, THEIRS))
    seconds = f"{theirs.pop('seconds'):10.1f} {ours.pop('seconds'):8.1f}"
    if "steps" in theirs and theirs.pop("steps") != (run := ours.pop("steps")):
        yield f"{what} ran {run} steps, not as many as PyTorch's", False
    for name, expected in theirs.items():
        got, expected = ours[name].astype(float), expected.astype(float)
        assert got.shape == expected.shape, (what, name, got.shape, expected.shape)
        difference = np.abs(got - expected).max()
        error, largest, spread = difference / np.abs(expected).max(), np.abs(expected).max(), expected.std()
        bound, within = f"{TOLERANCE:.0e}", error <= TOLERANCE
        if name == "pixels":  # and not flat: that would agree with anything
            error, bound, within = difference, f"{PIXELS}", difference <= PIXELS and spread > 5
        yield f"{what + ', ' + name:28} {error:9.2g} {bound:>6} {largest:9.3g} {spread:9.3g} {seconds}", bool(within)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=("ssd_1b", "vega", "sdxl_base"), default="ssd_1b")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=[*CHECKS])
    arguments = parser.parse_args()
    model, folder = getattr(presets, arguments.preset)(), arguments.folder
    source, converted = folder / "diffusers", folder / "converted"
    if not (source / "tokenizer_2").exists():  # the last that is written
        make(source, model, np.float32)
    if not converted.exists():
        measured("conversion", convert, source, converted, "float32")
    for check in arguments.only:
        *theirs, ours = CHECKS[check]
        for side in theirs:
            measured(f"{check}, {THEIRS}", compute, side, source, folder / THEIRS, model)
        measured(f"{check}, {OURS}", compute, ours, converted, folder / OURS, model)
    lines = [line for check in arguments.only for what in MADE[check] for line in compare(folder, what)]
    if lines:
        print(f"{'':28} {'error':>9} {'bound':>6} {'largest':>9} {'std':>9} {THEIRS + ', s':>10} {OURS + ', s':>8}")
    for line, within in lines:
        print(line if within else f"{line}  MISSED")
    if "bfloat16" in arguments.only:
        whole, half = (np.load(folder / OURS / f"{what}.npz") for what in ("img2img", "bfloat16"))
        square = np.square(whole["pixels"].astype(float) - half["pixels"]).mean()
        print(f"bfloat16 against float32: PSNR {10 * np.log10(255**2 / square):.1f} dB, {half['seconds']:.1f} s")
    return 0 if all(within for _, within in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
