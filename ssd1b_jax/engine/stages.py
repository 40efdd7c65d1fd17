"""What runs on a device: four pure functions from parameters and a batch to arrays.

`prepare` encodes prompts and images and adds the starting noise. `advance` runs a slice of the sampling loop, for
each picture its own. `decode` makes pixels. `put` moves prepared pictures into rows that are free. All take the
pictures of one device, `batch` of them; no picture changes a bit of another. Each stage tells of every picture
whether its values are finite, for a NaN cast to a pixel would be black.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine import loop, noise
from ssd1b_jax.models import PARTS, abstract
from ssd1b_jax.models.unet import Conditioning

Latents = Float[Array, "batch height width channels"]
ChunkedTokens = Int[Array, "batch chunks length"]
Weights = Float[Array, "batch chunks length"]
Finite = Bool[Array, " batch"]


ORDER = ("text encoders", "VAE encoder", "UNet", "VAE decoder")  # in which values can first be not finite


class Prompt(NamedTuple):
    """Token ids for both encoders and their weights, in chunks, and the sizes that the model is told.

    `present` False stands for zeros in place of what the encoders give. `time_ids` are the original
    height and width, the crop's top and left, the target height and width, in pixels.
    """

    tokens: ChunkedTokens
    weights: Weights
    tokens_2: ChunkedTokens
    weights_2: Weights
    present: Bool[Array, " batch"]
    time_ids: Float[Array, "batch 6"]


class Guidance(NamedTuple):
    scale: Float[Array, " batch"]
    rescale: Float[Array, " batch"]


class KeyNoise(NamedTuple):
    """Noise of model calls, drawn on the device from the words of each picture's key."""

    key: UInt32[Array, "batch 2"]


class StackedNoise(NamedTuple):
    """Noise of model calls, made on the host, call after call."""

    calls: Float[Array, "batch calls height width channels"]


RowNoise = KeyNoise | StackedNoise


class Inputs(NamedTuple):
    """What `prepare` needs of each picture; `negative` is None where guidance is off for all."""

    image: Float[Array, "batch image_height image_width 3"]
    remade: Bool[Array, "batch height width 1"]
    posterior_noise: Latents
    start_noise: Latents
    clip_skip: Int[Array, " batch"]
    positive: Prompt
    negative: Prompt | None
    guidance: Guidance
    tables: loop.Tables
    row_noise: RowNoise


class Fixed(NamedTuple):
    """What stays the same of each picture while it is sampled.

    The leaves of `conditioning` are (sides, batch, ...): the negative and the positive prompt, or the positive alone.
    """

    conditioning: Conditioning
    guidance: Guidance
    tables: loop.Tables
    inpaint: loop.Inpaint
    row_noise: RowNoise


class Slots(NamedTuple):
    """Pictures that are being sampled, a row each."""

    state: loop.State
    fixed: Fixed


class Steps(NamedTuple):
    """The model calls to make of each picture: from `start`, before `stop`. None where the two are equal."""

    start: Int[Array | np.ndarray, "*batch"]
    stop: Int[Array | np.ndarray, "*batch"]


def part_dtypes(config: ModelConfig, dtype) -> dict[str, jnp.dtype]:
    """What each part computes in: a VAE that overflows in float16 (`force_upcast`) in float32 there."""
    dtype = jnp.dtype(dtype)
    dtypes = dict.fromkeys(PARTS, dtype)
    if dtype == jnp.float16 and config.vae.force_upcast:
        dtypes["vae"] = jnp.dtype(jnp.float32)
    return dtypes


def _exact(stage: Callable) -> Callable:
    """Trace a stage so that float32 means float32: TPUs, and GPUs with TF32, would round its products."""

    @functools.wraps(stage)
    def traced(*arguments):
        with jax.default_matmul_precision("highest"):
            return stage(*arguments)

    return traced


class Stages:
    """The stages of one model, whose parts compute in `dtypes`, with parameters laid out for `platform`."""

    def __init__(self, config: ModelConfig, dtypes: Mapping[str, jnp.dtype], platform: str | None = None):
        self.config = config
        self.dtypes = dtypes
        self._graphdefs = {part: abstract(part, config, dtype, platform)[0] for part, dtype in self.dtypes.items()}

    def _network(self, part: str, params):
        return nnx.merge(self._graphdefs[part], params[part])

    @_exact
    def prepare(self, params, inputs: Inputs) -> tuple[Slots, dict[str, Finite]]:
        """All that is done once for a picture: its row before the first model call."""
        prompts, skips = [inputs.positive], [inputs.clip_skip]
        if inputs.negative is not None:  # it skips no layers, as in diffusers
            prompts, skips = [inputs.negative, *prompts], [jnp.zeros_like(inputs.clip_skip), *skips]
        joined = jax.tree.map(lambda *both: jnp.concatenate(both), *prompts)
        context, pooled = self._encode_prompt(params, joined, jnp.concatenate(skips))
        conditioning = self._network("unet", params).condition(context, pooled, joined.time_ids)
        batch = len(inputs.image)
        image = inputs.image.astype(self.dtypes["vae"])
        posterior = self._network("vae", params).encode(image)
        encoded = posterior.sample(inputs.posterior_noise.astype(image.dtype)).astype(jnp.float32)
        encoded = encoded * self.config.vae.scaling_factor
        fixed = Fixed(
            conditioning=jax.tree.map(lambda x: x.reshape(len(prompts), batch, *x.shape[1:]), conditioning),
            guidance=inputs.guidance,
            tables=inputs.tables,
            inpaint=loop.Inpaint(inputs.remade, encoded, inputs.start_noise),
            row_noise=inputs.row_noise,
        )
        finite = {
            "text encoders": (_finite(context) & _finite(pooled)).reshape(len(prompts), batch).all(axis=0),
            "VAE encoder": _finite(encoded),
        }
        return Slots(loop.begin(inputs.tables, encoded, inputs.start_noise), fixed), finite

    def _encode_prompt(self, params, prompt: Prompt, clip_skip: Int[Array, " batch"]) -> tuple[Array, Array]:
        """Context and pooled text."""
        batch, chunks, _ = prompt.tokens.shape

        def encode(part, tokens, weights):
            """Each chunk for itself; hidden states one chunk after another, pooled ones of the first chunk."""
            flat = tokens.reshape(batch * chunks, -1)
            features = self._network(part, params)(flat, jnp.repeat(clip_skip, chunks))
            hidden = emphasize(features.hidden, weights.reshape(batch * chunks, -1))
            pooled = features.pooled.reshape(batch, chunks, -1)[:, 0]
            return hidden.reshape(batch, -1, hidden.shape[-1]), pooled

        first, _ = encode("text_encoder", prompt.tokens, prompt.weights)
        second, pooled = encode("text_encoder_2", prompt.tokens_2, prompt.weights_2)
        context = jnp.concatenate([first, second], axis=-1)
        return (
            jnp.where(prompt.present[:, None, None], context, 0),
            jnp.where(prompt.present[:, None], pooled, 0),
        )

    def advance(self, params, state: loop.State, fixed: Fixed, steps: Steps) -> tuple[loop.State, Latents]:
        """Part `unet`. The model calls `steps` of each picture; also a copy of the denoised latents, to look at."""
        return self._advance(params, state, fixed, steps)

    def advance_unguided(self, params, state: loop.State, fixed: Fixed, steps: Steps) -> tuple[loop.State, Latents]:
        """`advance` by the positive prompt alone."""
        positive = jax.tree.map(lambda x: x[-1:], fixed.conditioning)
        return self._advance(params, state, fixed._replace(conditioning=positive), steps)

    @_exact
    def _advance(self, params, state: loop.State, fixed: Fixed, steps: Steps) -> tuple[loop.State, Latents]:
        unet = self._network("unet", params)
        count, batch = jax.tree.leaves(fixed.conditioning)[0].shape[:2]
        conditioning = jax.tree.map(lambda x: x.reshape(count * batch, *x.shape[2:]), fixed.conditioning)
        guidance, row_noise = fixed.guidance, fixed.row_noise

        def denoise(latents, timesteps):
            eps = unet.denoise(jnp.tile(latents, (count, 1, 1, 1)), jnp.tile(timesteps, count), conditioning)
            return eps if count == 1 else loop.guide(eps[:batch], eps[batch:], guidance.scale, guidance.rescale)

        def draw(i):
            if isinstance(row_noise, StackedNoise):
                return row_noise.calls[jnp.arange(batch), i]
            shape = state.latents.shape[1:]
            return jnp.stack([noise.row_noise(row_noise.key[k], i[k], shape) for k in range(batch)])

        state = loop.sample(denoise, state, fixed.tables, steps.start, steps.stop, draw, fixed.inpaint)
        return state, state.denoised

    @_exact
    def decode(
        self, params, latents: Latents
    ) -> tuple[UInt8[Array, "batch image_height image_width 3"], dict[str, Finite]]:
        """Part `vae`. Pixels, rounded as diffusers does."""
        scaled = (latents / self.config.vae.scaling_factor).astype(self.dtypes["vae"])
        image = self._network("vae", params).decode(scaled).astype(jnp.float32)
        pixels = jnp.round(jnp.clip(image / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)
        return pixels, {"UNet": _finite(latents), "VAE decoder": _finite(image)}


def put(params, rows: Slots | Latents, source: Slots | Latents, chosen: Bool[Array, " batch"]) -> Slots | Latents:
    """`rows`, with those of `source` in their places that are chosen. There are no parameters."""

    def moved(axis: int, old: Array, new: Array) -> Array:
        shape = (1,) * axis + (-1,) + (1,) * (old.ndim - axis - 1)
        return jnp.where(chosen.reshape(shape), new, old)

    if not isinstance(rows, Slots):
        return moved(0, rows, source)
    by_row, by_side = functools.partial(moved, 0), functools.partial(moved, 1)
    conditioning = jax.tree.map(by_side, rows.fixed.conditioning, source.fixed.conditioning)
    fixed = jax.tree.map(by_row, rows.fixed._replace(conditioning=None), source.fixed._replace(conditioning=None))
    return Slots(jax.tree.map(by_row, rows.state, source.state), fixed._replace(conditioning=conditioning))


def emphasize(
    hidden: Float[Array, "chunks tokens channels"], weights: Float[Array, "chunks tokens"]
) -> Float[Array, "chunks tokens channels"]:
    """Hidden states of one encoder times their weights, each chunk scaled back to the mean that it had.

    A chunk whose weights are all 1 comes back bit for bit.
    """
    plain = hidden.astype(jnp.float32)
    weighted = plain * weights[..., None]
    mean, new_mean = (x.mean((1, 2), keepdims=True) for x in (plain, weighted))
    restored = weighted * jnp.where(new_mean == 0, 1, mean / jnp.where(new_mean == 0, 1, new_mean))
    emphasized = (weights != 1).any(1)[:, None, None]
    return jnp.where(emphasized, restored.astype(hidden.dtype), hidden)


def _finite(x: Array) -> Finite:
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))
