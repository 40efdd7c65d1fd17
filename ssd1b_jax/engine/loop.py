"""The sampling loop: a guided model call and one general linear step, for every sampler alike.

Everything that differs between two requests is an argument of the loop (tables, where to start and
stop, noise), so one compiled program serves all of them, and each picture of a batch its own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ssd1b_jax.samplers import INPUTS, LATENTS, REGISTERS, Table

MAX_CALLS = 2000  # 1000 steps of a sampler that calls the model twice a step

Latents = Float[Array, "batch height width channels"]


class Tables(NamedTuple):
    """The tables of a batch in float32, equally long; `weights` are the matrices, with `denoised` as a last row."""

    timesteps: Float[Array | np.ndarray, "batch calls"]
    input_scales: Float[Array | np.ndarray, "batch calls"]
    weights: Float[Array | np.ndarray, "batch calls outputs inputs"]
    after: Float[Array | np.ndarray, "batch calls 2"]
    signal: Float[Array | np.ndarray, " batch"]
    sigma: Float[Array | np.ndarray, " batch"]


class State(NamedTuple):
    """What the loop carries, in float32. `denoised` is the result that the last call predicts."""

    latents: Latents
    registers: Float[Array, "batch registers height width channels"]
    denoised: Latents


class Inpaint(NamedTuple):
    """The part of each picture that is kept: where `remade` is False, latents are `encoded`, noised like the rest."""

    remade: Bool[Array, "batch height width 1"]
    encoded: Latents
    noise: Latents


def pad(table: Table, calls: int = MAX_CALLS) -> Table:
    """The table with rows appended that change nothing, so that all tables have one length."""
    missing = calls - table.calls
    if missing < 0:
        raise ValueError(f"a table has at most {calls} model calls, got {table.calls}")
    keep = np.eye(1 + REGISTERS, INPUTS)
    return dataclasses.replace(
        table,
        timesteps=np.append(table.timesteps, np.zeros(missing)),
        input_scales=np.append(table.input_scales, np.ones(missing)),
        matrices=np.concatenate([table.matrices, np.tile(keep, (missing, 1, 1))]),
        denoised=np.concatenate([table.denoised, np.tile(LATENTS, (missing, 1))]),
        steps=np.append(table.steps, np.full(missing, table.steps[-1])),
        draws=np.append(table.draws, np.zeros(missing, bool)),
        after=np.concatenate([table.after, np.tile([1.0, 0.0], (missing, 1))]),
    )


def stack(tables: Sequence[Table], calls: int = MAX_CALLS) -> Tables:
    """One batch's tables, padded, as the float32 arrays that `sample` takes."""
    padded = [pad(table, calls) for table in tables]
    columns = (
        [table.timesteps for table in padded],
        [table.input_scales for table in padded],
        [np.concatenate([table.matrices, table.denoised[:, None]], axis=1) for table in padded],
        [table.after for table in padded],
        [table.signal for table in padded],
        [table.sigma for table in padded],
    )
    return Tables(*(np.asarray(column, np.float32) for column in columns))


def begin(tables: Tables, encoded: Latents, noise: Latents) -> State:
    """The state before the first call: encoded images, noised as their tables say."""
    encoded = encoded.astype(jnp.float32)
    latents = _each(tables.signal) * encoded + _each(tables.sigma) * noise.astype(jnp.float32)
    batch, *size = latents.shape
    return State(latents, jnp.zeros((batch, REGISTERS, *size), jnp.float32), encoded)


def sample(
    denoise: Callable[[Latents, Float[Array, " batch"]], Latents],
    state: State,
    tables: Tables,
    start: int | Int[Array, ""] | Int[Array, " batch"],
    stop: int | Int[Array, ""] | Int[Array, " batch"],
    noise: Callable[[Int[Array, " batch"]], Latents],
    inpaint: Inpaint | None = None,
) -> State:
    """Run model calls `start` to `stop` of each picture's table; slices in turn give the bits of the whole.

    `denoise(scaled latents, timesteps)` is the guided model, `noise(i)` the noise of each picture's call i.
    Runs for the longest slice in the batch; finished pictures are left unchanged. The kept part of `inpaint` is put
    back after every call (Lugmayr et al., 2201.09865, Eq. 8, without their resampling; diffusers does so with models
    that were not trained to inpaint).
    """

    start, stop = (jnp.broadcast_to(bound, tables.signal.shape) for bound in (start, stop))

    def call(turn, state: State) -> State:
        i = start + turn  # each picture's own

        def now(column):
            return jnp.asarray(column)[jnp.arange(len(i)), i]

        timesteps, weights = now(tables.timesteps), now(tables.weights)
        output = denoise(_each(now(tables.input_scales)) * state.latents, timesteps)
        inputs = [state.latents[:, None], state.registers, output[:, None], noise(i)[:, None]]
        inputs = jnp.concatenate(inputs, axis=1, dtype=jnp.float32)[:, None]
        weights = weights[..., None, None, None]
        # Not a matrix product: float32 on every device, and 0 times NaN is 0 here.
        outputs = jnp.where(weights != 0, weights * inputs, 0).sum(axis=2)
        latents, denoised = outputs[:, 0], outputs[:, -1]
        if inpaint is not None:
            signal, sigma = now(tables.after).T
            latents = jnp.where(inpaint.remade, latents, _each(signal) * inpaint.encoded + _each(sigma) * inpaint.noise)
            denoised = jnp.where(inpaint.remade, denoised, inpaint.encoded)
        after, left = State(latents, outputs[:, 1:-1], denoised), i < stop
        return jax.tree.map(lambda new, old: jnp.where(left.reshape(-1, *[1] * (new.ndim - 1)), new, old), after, state)

    return jax.lax.fori_loop(0, (stop - start).max(), call, state)


def guide(
    eps_uncond: Latents,
    eps_cond: Latents,
    guidance_scale: Float[Array, " batch"],
    guidance_rescale: Float[Array, " batch"],
) -> Latents:
    """Classifier-free guidance (Ho & Salimans, 2207.12598); scale 1 is `eps_cond` but for rounding.

    `guidance_rescale` above 0 moves the result's spread towards that of `eps_cond`, against
    overexposure (Lin et al., 2305.08891, Eq. 15 and 16); 0 is plain guidance, bit for bit.
    """
    eps_uncond, eps_cond = eps_uncond.astype(jnp.float32), eps_cond.astype(jnp.float32)
    guided = eps_uncond + _each(guidance_scale) * (eps_cond - eps_uncond)
    rescale = _each(guidance_rescale)
    spread = [eps.std(axis=(1, 2, 3), keepdims=True) for eps in (eps_cond, guided)]
    rescaled = rescale * (guided * (spread[0] / spread[1])) + (1 - rescale) * guided
    return jnp.where(rescale > 0, rescaled, guided)


def _each(values: Float[Array | np.ndarray, " batch"]) -> Float[Array | np.ndarray, "batch 1 1 1"]:
    """One number a picture, shaped to multiply latents."""
    return values[:, None, None, None]
