"""What runs on a device: three pure functions from parameters and a batch to arrays.

`prepare` encodes prompts and images and adds the starting noise, `advance` runs a slice of the
sampling loop, `decode` makes pixels. Each says of every picture whether its values are finite, for
a NaN cast to a pixel would be black. All take the pictures of one device, `batch` of them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine import loop, noise
from ssd1b_jax.models import PARTS, abstract
from ssd1b_jax.models.unet import Conditioning

Latents = Float[Array, "batch height width channels"]
Tokens = Int[Array, "batch chunks length"]
Weights = Float[Array, "batch chunks length"]
Finite = Bool[Array, " batch"]


ORDER = ("text encoders", "VAE encoder", "UNet", "VAE decoder")  # in which values can first be not finite


class Prompt(NamedTuple):
    """Token ids for both encoders and their weights, in chunks, and the sizes that the model is told of.

    `present` False stands for zeros in place of what the encoders give. `sizes` are the original
    height and width, the crop's top and left, the target height and width, in pixels.
    """

    tokens: Tokens
    weights: Weights
    tokens_2: Tokens
    weights_2: Weights
    present: Bool[Array, " batch"]
    sizes: Float[Array, "batch 6"]


class Inputs(NamedTuple):
    """What `prepare` needs of each picture; `negative` is None where guidance is off for all."""

    image: Float[Array, "batch image_height image_width 3"]
    remade: Bool[Array, "batch height width 1"]
    posterior_noise: Latents
    start_noise: Latents
    clip_skip: Int[Array, " batch"]
    prompt: Prompt
    negative: Prompt | None


Sides = tuple[Conditioning, ...]  # (negative, positive) where guidance is on, else (positive,)


class Guidance(NamedTuple):
    scale: Float[Array, " batch"]
    rescale: Float[Array, " batch"]


class KeyNoise(NamedTuple):
    """Noise of sampler rows drawn on the device, from the words of each picture's key."""

    key: UInt32[Array, "batch 2"]


class StackedNoise(NamedTuple):
    """Noise of sampler rows made on the host, row after row."""

    rows: Float[Array, "batch calls height width channels"]


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
    def prepare(
        self, params, inputs: Inputs, rows: loop.Rows
    ) -> tuple[loop.State, Sides, loop.Known, dict[str, Finite]]:
        """All that is done once for a picture: the state before the first model call, and what stays the same."""
        prompts, skips = [inputs.prompt], [inputs.clip_skip]
        if inputs.negative is not None:  # it skips no layers, as in diffusers
            prompts, skips = [inputs.negative, *prompts], [jnp.zeros_like(inputs.clip_skip), *skips]
        joined = jax.tree.map(lambda *both: jnp.concatenate(both), *prompts)
        context, pooled = self._encode_prompt(params, joined, jnp.concatenate(skips))
        conditioning = self._network("unet", params).condition(context, pooled, joined.sizes)
        batch = len(inputs.image)
        sides = tuple(
            jax.tree.map(lambda x, start=start: x[start : start + batch], conditioning)
            for start in range(0, batch * len(prompts), batch)
        )
        image = inputs.image.astype(self.dtypes["vae"])
        posterior = self._network("vae", params).encode(image)
        encoded = posterior.sample(inputs.posterior_noise.astype(image.dtype)).astype(jnp.float32)
        encoded = encoded * self.config.vae.scaling_factor
        state = loop.begin(rows, encoded, inputs.start_noise)
        finite = {
            "text encoders": (_finite(context) & _finite(pooled)).reshape(len(prompts), batch).all(axis=0),
            "VAE encoder": _finite(encoded),
        }
        return state, sides, loop.Known(inputs.remade, encoded, inputs.start_noise), finite

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

    @_exact
    def advance(
        self,
        params,
        state: loop.State,
        sides: Sides,
        guidance: Guidance,
        rows: loop.Rows,
        known: loop.Known,
        row_noise: KeyNoise | StackedNoise,
        start: Int[Array, " batch"],
        stop: Int[Array, " batch"],
    ) -> tuple[loop.State, Latents]:
        """Part `unet`. Model calls `start` to `stop` of each picture; also a copy of the clean latents, to look at."""
        unet = self._network("unet", params)
        batch, count = len(start), len(sides)
        conditioning = jax.tree.map(lambda *both: jnp.concatenate(both), *sides)

        def denoise(latents, timesteps):
            eps = unet.denoise(jnp.tile(latents, (count, 1, 1, 1)), jnp.tile(timesteps, count), conditioning)
            return eps if count == 1 else loop.guide(eps[:batch], eps[batch:], guidance.scale, guidance.rescale)

        def draw(i):
            if isinstance(row_noise, StackedNoise):
                return row_noise.rows[jnp.arange(batch), i]
            shape = state.latents.shape[1:]
            return jnp.stack([noise.row_noise(row_noise.key[k], i[k], shape) for k in range(batch)])

        state = loop.sample(denoise, state, rows, start, stop, draw, known)
        return state, state.clean

    @_exact
    def decode(
        self, params, latents: Latents
    ) -> tuple[UInt8[Array, "batch image_height image_width 3"], dict[str, Finite]]:
        """Part `vae`. Pixels, rounded as diffusers does."""
        scaled = (latents / self.config.vae.scaling_factor).astype(self.dtypes["vae"])
        image = self._network("vae", params).decode(scaled).astype(jnp.float32)
        pixels = jnp.round(jnp.clip(image / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)
        return pixels, {"UNet": _finite(latents), "VAE decoder": _finite(image)}


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
