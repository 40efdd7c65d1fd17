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

from ssd1b_jax import noise, sampler
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import PARTS, abstract

Latents = Float[Array, "batch height width channels"]
Tokens = Int[Array, "batch length"]
Finite = Bool[Array, " batch"]


ORDER = ("text encoders", "VAE encoder", "UNet", "VAE decoder")  # in which values can first be not finite


class Prompt(NamedTuple):
    """Token ids for both encoders; `present` False stands for zeros in place of what they give."""

    tokens: Tokens
    tokens_2: Tokens
    present: Bool[Array, " batch"]


class Inputs(NamedTuple):
    """What `prepare` needs of each picture; `negative` is None where guidance is off for all."""

    image: Float[Array, "batch image_height image_width 3"]
    posterior_noise: Latents
    start_noise: Latents
    prompt: Prompt
    negative: Prompt | None


class Conditioning(NamedTuple):
    """The prompt as the UNet takes it; `sides` is 2 (negative, positive) with guidance, else 1."""

    context: Float[Array, "batch sides tokens channels"]
    pooled: Float[Array, "batch sides features"]
    time_ids: Float[Array, "batch 6"]


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
    dtypes = dict.fromkeys(PARTS, jnp.dtype(dtype))
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
    """The stages of one model, whose parts compute in `dtypes`."""

    def __init__(self, config: ModelConfig, dtypes: Mapping[str, jnp.dtype]):
        self.config = config
        self.dtypes = dtypes
        self._graphdefs = {part: abstract(part, config, dtype)[0] for part, dtype in self.dtypes.items()}

    def _network(self, part: str, params):
        return nnx.merge(self._graphdefs[part], params[part])

    @_exact
    def prepare(
        self, params, inputs: Inputs, rows: sampler.Rows
    ) -> tuple[sampler.State, Conditioning, dict[str, Finite]]:
        """Parts `text_encoder`, `text_encoder_2` and `vae`. The state before the first model call."""
        sides = [self._encode_prompt(params, side) for side in (inputs.negative, inputs.prompt) if side is not None]
        context, pooled = (jnp.stack(side, axis=1) for side in zip(*sides, strict=True))
        image = inputs.image.astype(self.dtypes["vae"])
        posterior = self._network("vae", params).encode(image)
        encoded = posterior.sample(inputs.posterior_noise.astype(image.dtype)).astype(jnp.float32)
        state = sampler.begin(rows, encoded * self.config.vae.scaling_factor, inputs.start_noise)
        batch, height, width, _ = image.shape
        time_ids = jnp.broadcast_to(jnp.array([height, width, 0, 0, height, width], jnp.float32), (batch, 6))
        finite = {"text encoders": _finite(context) & _finite(pooled), "VAE encoder": _finite(state.latents)}
        return state, Conditioning(context, pooled, time_ids), finite

    def _encode_prompt(self, params, prompt: Prompt) -> tuple[Array, Array]:
        first = self._network("text_encoder", params)(prompt.tokens)
        second = self._network("text_encoder_2", params)(prompt.tokens_2)
        context = jnp.concatenate([first.penultimate, second.penultimate], axis=-1)
        return (
            jnp.where(prompt.present[:, None, None], context, 0),
            jnp.where(prompt.present[:, None], second.pooled, 0),
        )

    @_exact
    def advance(
        self,
        params,
        state: sampler.State,
        conditioning: Conditioning,
        guidance: Guidance,
        rows: sampler.Rows,
        row_noise: KeyNoise | StackedNoise,
        start: Int[Array, " batch"],
        stop: Int[Array, " batch"],
    ) -> tuple[sampler.State, Int[Array, " batch"]]:
        """Part `unet`. Model calls `start[0]` to `stop[0]` of every picture; also `stop`, to wait on."""
        unet = self._network("unet", params)
        batch, sides = conditioning.pooled.shape[:2]

        def spread(x):
            """Side after side along the batch axis."""
            return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

        context, pooled = spread(conditioning.context), spread(conditioning.pooled)
        time_ids = jnp.tile(conditioning.time_ids, (sides, 1))

        def denoise(latents, timesteps):
            eps = unet(jnp.tile(latents, (sides, 1, 1, 1)), jnp.tile(timesteps, sides), context, pooled, time_ids)
            return eps if sides == 1 else sampler.guide(eps[:batch], eps[batch:], guidance.scale, guidance.rescale)

        def draw(i):
            if isinstance(row_noise, StackedNoise):
                return jax.lax.dynamic_index_in_dim(row_noise.rows, i, axis=1, keepdims=False)
            shape = state.latents.shape[1:]
            return jnp.stack([noise.row_noise(key, i, shape) for key in row_noise.key])

        return sampler.sample(denoise, state, rows, start[0], stop[0], draw), stop

    @_exact
    def decode(
        self, params, latents: Latents
    ) -> tuple[UInt8[Array, "batch image_height image_width 3"], dict[str, Finite]]:
        """Part `vae`. Pixels, rounded as diffusers does."""
        scaled = (latents / self.config.vae.scaling_factor).astype(self.dtypes["vae"])
        image = self._network("vae", params).decode(scaled).astype(jnp.float32)
        pixels = jnp.round(jnp.clip(image / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)
        return pixels, {"UNet": _finite(latents), "VAE decoder": _finite(image)}


def _finite(x: Array) -> Finite:
    return jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))
