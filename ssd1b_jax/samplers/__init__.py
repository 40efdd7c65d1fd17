"""Every sampler as a table of coefficients: NumPy in float64, on the host, for one picture.

Each sampler is linear in the latents, the model's outputs and the noise, so it is a general linear
method (Butcher, Acta Numerica 15, 2006): model call i maps

    [latents, r1..r3, output, noise]  to  [latents, r1..r3]

by a matrix of its own, and `sampler.sample` runs any of them with one program. The matrices are
not derived by hand. The names on the left are the rows of a unit matrix, so a sampler is its
paper's update written in these symbols, and what it computes with them is the matrix.

A new sampler is one such function, in `onestep` or `multistep`, and one row in `registry`.
Registers carry what later calls need: the history of a multistep method, the start of a step that
calls the model twice. They begin as zeros.
"""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.samplers.registry import SAMPLERS, Sampler, canonical
from ssd1b_jax.samplers.schedule import noise_levels, trained_sigmas
from ssd1b_jax.samplers.symbols import INPUTS, LATENTS, NOISE, OUTPUT, REGISTERS, Run

__all__ = [
    "INPUTS", "LATENTS", "NOISE", "OUTPUT", "REGISTERS", "SAMPLERS", "Sampler", "Table", "build", "canonical",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Table:
    """What one picture's sampling loop does, a row for each model call.

    The loop starts from `signal * encoded image + sigma * noise`. The model sees `scales * latents`
    at `timesteps`; `matrices` then give the next state, and `clean` the predicted clean latents.

    `steps` is the step, of those that run, that a call belongs to. `draws` are the calls at which
    diffusers draws noise, which it does even where that has no weight. `after` is the noise level
    of the latents after the call, as (alpha, sigma); the last is (1, 0), for it is the result.
    """

    timesteps: Float[np.ndarray, " calls"]
    scales: Float[np.ndarray, " calls"]
    matrices: Float[np.ndarray, "calls state inputs"]
    clean: Float[np.ndarray, "calls inputs"]
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
) -> Table:
    """The table of one picture. RequestError for an unknown sampler or spacing, or numbers that run no step.

    What `strength` and `exact_steps` do is told in `schedule.noise_levels`. `timestep_spacing` is by
    default the model's. The table is that of diffusers' scheduler class at its defaults
    (solver_order 2, DDPM's variance fixed_small, DDIM's eta 0, LCM's original_inference_steps 50), quirks
    included, but that latents are never clipped, which is meant for pixels; that `deis_karras` of one
    step denoises, where diffusers' stays; and at the edges that `schedule.spaced_timesteps` names.
    """
    sampler = SAMPLERS[canonical(name)]
    if timestep_spacing is not None:
        schedule_config = dataclasses.replace(schedule_config, timestep_spacing=timestep_spacing)
    path = noise_levels(schedule_config, sampler.grid, num_inference_steps, strength, exact_steps)
    run = Run(path, trained_sigmas(schedule_config), sampler.exploding, schedule_config.prediction_type)
    calls = list(sampler.calls(run))
    matrices = np.zeros((len(calls), 1 + REGISTERS, INPUTS))
    for matrix, call in zip(matrices, calls, strict=True):
        matrix[: 1 + len(call.registers)] = call.latents, *call.registers
    return Table(
        timesteps=np.array([call.level.timestep for call in calls]),
        scales=np.array([call.level.scale for call in calls]),
        matrices=matrices,
        clean=np.stack([call.level.clean for call in calls]),
        steps=np.cumsum([0] + [not call.trial for call in calls[:-1]]),
        draws=np.array([call.draws for call in calls]),
        after=np.array([(call.to.alpha, call.to.sigma) for call in calls[:-1]] + [(1.0, 0.0)]),
        signal=calls[0].level.alpha,
        sigma=calls[0].level.sigma,
        steps_run=num_inference_steps - path.first,
    )
