"""One picture's sampler as a table of coefficients, in float64.

Every sampler is linear in the latents, the model's outputs and the noise. So it is a general linear
method (Butcher, Acta Numerica 15, 2006). Model call i maps

    [latents, r1..r3, output, noise]  to  [latents, r1..r3]

by a matrix of its own, and `engine.loop` runs any table with one program. Nobody derives the matrices
by hand: `symbols` names the rows of a unit matrix, and a sampler is its paper's update, written in
these symbols. What it computes with them is the matrix.

The registers r1 to r3 carry what later calls need: the history of a multistep method, or the start of
a step that calls the model twice. They begin as zeros.

A new sampler is one such function, in `onestep` or `multistep`, and one row in `registry`.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.samplers.registry import row
from ssd1b_jax.samplers.schedule import noise_levels, trained_sigmas
from ssd1b_jax.samplers.symbols import INPUTS, REGISTERS, Run


@dataclass(frozen=True, kw_only=True)
class Table:
    """One picture's sampling loop, a row for each model call.

    - The loop starts from `signal * encoded image + sigma * noise`.
    - The model sees `input_scales * latents` at `timesteps`.
    - `matrices` give the next latents and registers, `denoised` the predicted clean latents.
    - `steps` is the step that a call belongs to, counted from the first step that runs.
    - `draws` marks the calls at which diffusers draws noise. It does so even where that has no weight.
    - `after` is the noise level of the latents after a call, (alpha, sigma). The last is (1, 0): the result.
    """

    timesteps: Float[np.ndarray, " calls"]
    input_scales: Float[np.ndarray, " calls"]
    matrices: Float[np.ndarray, "calls state inputs"]
    denoised: Float[np.ndarray, "calls inputs"]
    steps: Int[np.ndarray, " calls"]
    draws: Bool[np.ndarray, " calls"]
    after: Float[np.ndarray, "calls 2"]
    signal: float
    sigma: float
    steps_run: int

    @property
    def calls(self) -> int:
        return len(self.timesteps)


@functools.lru_cache(maxsize=256)
def build(
    name: str,
    schedule_config: ScheduleConfig,
    num_inference_steps: int,
    strength: float,
    exact_steps: bool = False,
    timestep_spacing: str | None = None,
    from_noise: bool = False,
) -> Table:
    """The table of one picture. RequestError for an unknown sampler or spacing, or numbers that run no step.

    `schedule.noise_levels` explains `strength` and `exact_steps`. `timestep_spacing` defaults to the model's.
    `from_noise` begins with noise alone, as diffusers' text to image does (its `init_noise_sigma`).

    The table is that of diffusers' scheduler class at its defaults: solver_order 2, DDPM's variance
    fixed_small, DDIM's eta 0, LCM's original_inference_steps 50. It keeps the quirks, with these exceptions:

    - `lms` and `pndm` begin at the first step that runs, and `pndm` ends without noise. diffusers' way, which leaves
      noise in the picture, is `lms_diffusers` and `pndm_diffusers` (`registry.AS_IN_DIFFUSERS`).
    - Latents are never clipped. Clipping is meant for pixels.
    - `deis_karras` denoises in one step, where diffusers' stands still.
    - `schedule.spaced_timesteps` lists the edges at which timesteps differ.
    """
    sampler = row(name)
    if timestep_spacing is not None:
        schedule_config = dataclasses.replace(schedule_config, timestep_spacing=timestep_spacing)
    path = noise_levels(schedule_config, sampler.grid, num_inference_steps, strength, exact_steps)
    trained = trained_sigmas(schedule_config)
    run = Run(path, trained, sampler.exploding, schedule_config.prediction_type)
    calls = list(sampler.update(run))
    matrices = np.zeros((len(calls), 1 + REGISTERS, INPUTS))
    for matrix, call in zip(matrices, calls, strict=True):
        matrix[: 1 + len(call.registers)] = call.latents, *call.registers
    steps = np.cumsum([0] + [not call.trial for call in calls[:-1]])
    after = [(call.to.alpha, call.to.sigma) for call in calls[:-1]]
    signal, sigma = calls[0].level.alpha, calls[0].level.sigma
    if from_noise:
        keeps_sigma = sampler.exploding and schedule_config.timestep_spacing in ("linspace", "trailing")
        signal, sigma = 0.0, sigma if keeps_sigma else math.hypot(signal, sigma)
    return Table(
        timesteps=np.array([call.level.timestep for call in calls]),
        input_scales=np.array([call.level.input_scale for call in calls]),
        matrices=matrices,
        denoised=np.stack([call.level.denoised for call in calls]),
        steps=steps,
        draws=np.array([call.draws for call in calls]),
        after=np.array([*after, (1.0, 0.0)]),
        signal=signal,
        sigma=sigma,
        steps_run=int(steps[-1]) + 1,
    )
