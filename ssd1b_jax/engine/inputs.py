"""What the host makes for a picture before the devices start: its pixels, its noise, its tables."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssd1b_jax import images
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine import loop, noise
from ssd1b_jax.engine.jobs import Job, Program
from ssd1b_jax.engine.packing import Arrays, Packing
from ssd1b_jax.engine.pictures import InputPicture, InputPictures
from ssd1b_jax.engine.stages import Guidance, Inputs, KeyNoise, Prompt, RowNoise, StackedNoise
from ssd1b_jax.samplers import INPUTS, REGISTERS


class HostInputs(NamedTuple):
    """One picture's inputs, packed, without a batch axis, and what its result needs of the picture that was read."""

    packed: Arrays
    picture: InputPicture
    notes: tuple[str, ...]


def read(job: Job, config: ModelConfig, pictures: InputPictures, packing: Packing) -> HostInputs:
    """Read a job's picture and draw its noise. Raises ImageError."""
    request = job.request
    picture = job.picture or pictures.get(request)
    shape = (*picture.remade.shape[:2], config.vae.latent_channels)
    source = noise.source(request.noise, request.seed)
    # Without an image nothing is encoded, so the first noise of a stream is the start's, as in diffusers.
    has_image = request.image is not None
    posterior = np.asarray(source.posterior(shape)) if has_image else np.zeros(shape, np.float32)
    start = np.asarray(source.start(shape))
    if request.variation_strength:
        other = noise.source(request.noise, request.variation_seed)
        if has_image:
            other.posterior(shape)
        start = noise.slerp(start, other.start(shape), request.variation_strength)
    tables = loop.stack([job.table])
    inputs = Inputs(
        image=images.to_model(picture.pixels),
        remade=picture.remade,
        posterior_noise=posterior,
        start_noise=start,
        clip_skip=np.int32(request.clip_skip),
        positive=_prompt(job, config, ""),
        negative=_prompt(job, config, "negative_") if job.group.program.guided else None,
        guidance=Guidance(np.float32(request.guidance_scale), np.float32(request.guidance_rescale)),
        tables=jax.tree.map(lambda column: column[0], tables),
        row_noise=_row_noise(job, source, shape),
    )
    return HostInputs(packing.pack(inputs), picture, (*job.notes, *picture.notes))


def abstract(program: Program, config: ModelConfig) -> Inputs:
    """The shapes of one picture's inputs: enough to compile for, with nothing read and nothing drawn."""
    factor, calls = config.vae.factor, loop.MAX_CALLS
    latents = (program.height // factor, program.width // factor, config.vae.latent_channels)
    length = min(config.text_encoder.max_position_embeddings, config.text_encoder_2.max_position_embeddings)

    def shape(*sides: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sides, dtype)

    tokens, weights = shape(program.chunks, length, dtype=jnp.int32), shape(program.chunks, length)
    prompt = Prompt(tokens, weights, tokens, weights, present=shape(dtype=bool), time_ids=shape(6))
    stacked = StackedNoise(shape(program.noise_rows, *latents))
    return Inputs(
        image=shape(program.height, program.width, 3),
        remade=shape(*latents[:2], 1, dtype=bool),
        posterior_noise=shape(*latents),
        start_noise=shape(*latents),
        clip_skip=shape(dtype=jnp.int32),
        positive=prompt,
        negative=prompt if program.guided else None,
        guidance=Guidance(shape(), shape()),
        tables=loop.Tables(
            timesteps=shape(calls),
            input_scales=shape(calls),
            weights=shape(calls, 2 + REGISTERS, INPUTS),
            after=shape(calls, 2),
            signal=shape(),
            sigma=shape(),
        ),
        row_noise=stacked if program.noise_rows else KeyNoise(shape(2, dtype=jnp.uint32)),
    )


def _prompt(job: Job, config: ModelConfig, prefix: str) -> Prompt:
    first, second = job.prompts[0 if prefix else -1]
    request = job.request
    names = ("original_size", "crops_coords_top_left", "target_size")
    time_ids = np.array([getattr(request, prefix + name) for name in names], np.float32).ravel()
    texts = getattr(request, f"{prefix}prompt"), getattr(request, f"{prefix}prompt_2")
    # An absent prompt is zeros where the model was trained so, else the empty one.
    present = any(text is not None for text in texts) or not config.force_zeros_for_empty_prompt
    return Prompt(first.ids, first.weights, second.ids, second.weights, np.bool_(present), time_ids)


def _row_noise(job: Job, source: noise.NoiseSource, shape: noise.Shape) -> RowNoise:
    count = job.group.program.noise_rows
    if not count:
        return KeyNoise(noise.key_data(job.request.seed))
    stack = np.zeros((count, *shape), np.float32)
    for call in np.flatnonzero(job.table.draws):
        stack[call] = source.row(int(call), shape)
    return StackedNoise(stack)
