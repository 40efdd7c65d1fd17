"""Betas, noise levels and timesteps, and where a strength starts: NumPy in float64, on the host.

A schedule is an array: `sigmas[t]` is the noise level of training timestep t, where latents are
clean + sigma * eps (Karras et al., 2206.00364). `table` turns the levels that one picture walks down
into a table.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.errors import RequestError

KARRAS_RHO = 7.0
LEAST_SIGNAL = 2.0**-24  # so that the noise-to-signal ratio, 4096, is a number
LCM_STEPS = 50  # latent consistency models are distilled from these (Luo et al., 2310.04378)


@dataclass(frozen=True, kw_only=True)
class NoiseGrid:
    """How a sampler spaces its noise levels: the points in which diffusers' schedulers disagree.

    - `karras`: the levels between the first and the last are Karras et al.'s.
    - `round_timesteps`: timesteps are rounded to trained ones.
    - `extra_timestep`: one timestep more than there are steps is laid and the lowest dropped, and Karras
      levels span all of training. The DPM-Solver family does so.
    - `spacing`: the sampler's own spacing, whatever the model or the request asks for. "consistency" spreads
      timesteps evenly over the LCM_STEPS that latent consistency models learn.
    - `fixed_stride`: every step ends num_train_timesteps // steps below its start. Unless timesteps are
      leading, the next step starts elsewhere. diffusers' DDIM and PNDM do so; exact steps don't.
    - `repeat_second`: the second timestep stands twice, for PNDM's first step.
    - `restart`: the steps that a strength leaves are a run of their own, as if nothing came before them.
    - `final_sigma`: the level after the last step, no noise or the least that was trained.
    """

    karras: bool = False
    round_timesteps: bool = False
    extra_timestep: bool = False
    spacing: Literal["linspace", "consistency"] | None = None
    fixed_stride: bool = False
    repeat_second: bool = False
    restart: bool = False
    final_sigma: Literal["zero", "sigma_min"] = "zero"


class Steps(NamedTuple):
    """Where each step of a full run starts and ends. A strength below 1 skips the steps before `first`."""

    timesteps: Float[np.ndarray, "steps 2"]
    sigmas: Float[np.ndarray, "steps 2"]
    first: int


def betas(config: ScheduleConfig) -> Float[np.ndarray, " timesteps"]:
    """Variances of the training noise (Ho et al., 2006.11239); Stable Diffusion's are linear in the root."""
    power = {"linear": 1, "scaled_linear": 2}[config.beta_schedule]
    first, last = config.beta_start ** (1 / power), config.beta_end ** (1 / power)
    return np.linspace(first, last, config.num_train_timesteps) ** power


def alphas_cumprod(config: ScheduleConfig) -> Float[np.ndarray, " timesteps"]:
    """Shares of the signal in the variance. With a zero terminal SNR the last is LEAST_SIGNAL, as in diffusers."""
    abar = np.cumprod(1 - betas(config))
    if not config.rescale_betas_zero_snr:
        return abar
    root = np.sqrt(abar)
    abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2  # Lin et al., Algorithm 1
    abar[-1] = LEAST_SIGNAL
    return abar


def trained_sigmas(config: ScheduleConfig) -> Float[np.ndarray, " timesteps"]:
    """Noise-to-signal ratio of every training timestep, rising."""
    abar = alphas_cumprod(config)
    return np.sqrt((1 - abar) / abar)


def sigma_at(
    trained: Float[np.ndarray, " timesteps"], timesteps: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    """Noise levels at timesteps, interpolated between the trained ones and constant beyond both ends."""
    return np.interp(timesteps, np.arange(len(trained)), trained)


def timestep_at(
    trained: Float[np.ndarray, " timesteps"], sigmas: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    """Timesteps, perhaps fractional, whose noise levels are `sigmas`: linear in log sigma."""
    return np.interp(np.log(sigmas), np.log(trained), np.arange(len(trained)))


def karras_sigmas(sigma_max: float, sigma_min: float, num_inference_steps: int) -> Float[np.ndarray, " steps"]:
    """Noise levels evenly spaced in sigma^(1/7) (Karras et al., 2206.00364, Eq. 5)."""
    ramp = np.linspace(sigma_max ** (1 / KARRAS_RHO), sigma_min ** (1 / KARRAS_RHO), num_inference_steps)
    return ramp**KARRAS_RHO


def spaced_timesteps(config: ScheduleConfig, num_inference_steps: int, grid: NoiseGrid) -> Float[np.ndarray, " steps"]:
    """Timesteps of a full run, falling, as diffusers has them (Lin et al., 2305.08891, Table 2).

    Two edges differ. Leading timesteps stay apart where the extra one leaves no room; diffusers' are
    then all the same. Trailing timesteps are as many as asked for; in diffusers 61 steps are 62, by rounding.
    """
    total, steps = config.num_train_timesteps, num_inference_steps
    points = steps + grid.extra_timestep
    match grid.spacing or config.timestep_spacing:
        case "leading":
            timesteps = np.arange(points)[::-1] * max(1, total // points) + float(config.steps_offset)
        case "trailing":
            timesteps = np.arange(total, 0, -total / steps).round() - 1.0
        case "linspace":
            timesteps = np.linspace(0, total - 1, points)[::-1]
        case "consistency":
            learned = np.arange(LCM_STEPS, 0, -1) * (total // LCM_STEPS) - 1.0
            timesteps = learned[np.linspace(0, LCM_STEPS, steps, endpoint=False).astype(int)]
    if grid.round_timesteps:
        timesteps = timesteps.round()
    timesteps = timesteps[:steps]
    return np.insert(timesteps, 1, timesteps[1:2]) if grid.repeat_second and not grid.restart else timesteps


def steps_to_run(num_inference_steps: int, strength: float) -> int:
    """How many of the last steps a strength runs, as diffusers counts. RequestError where that is none."""
    steps = min(int(num_inference_steps * strength), num_inference_steps)
    if steps == 0:
        least = math.ceil(1e4 / num_inference_steps) / 1e4
        raise RequestError(
            f"strength must be at least {least} to run one of {num_inference_steps} steps, got {strength}; "
            "with exact_steps every strength runs them all"
        )
    return steps


def noise_levels(
    config: ScheduleConfig, grid: NoiseGrid, num_inference_steps: int, strength: float, exact_steps: bool = False
) -> Steps:
    """Timesteps and noise levels between which the steps go. RequestError for numbers that run no step.

    By default the last int(num_inference_steps * strength) steps of the full run are run, as in
    diffusers. So 30 steps know only 30 strengths, and 4 steps at 0.6 are 2.

    With `exact_steps` all steps run. The full run's timesteps are multiplied by the strength, and
    noise levels are interpolated linearly between the trained ones. So the start moves continuously
    with strength, from almost no noise to the full run at strength 1. Karras levels lie between these
    two ends, and every step ends where the next starts.
    """
    total = config.num_train_timesteps
    most = LCM_STEPS if grid.spacing == "consistency" else total
    if not 1 <= num_inference_steps <= most:
        raise RequestError(f"num_inference_steps must be in 1..{most}, got {num_inference_steps}")
    if not 0 < strength <= 1:
        raise RequestError(f"strength must be in (0, 1], got {strength}")
    stretch = strength if exact_steps else 1.0
    first = 0 if exact_steps else num_inference_steps - steps_to_run(num_inference_steps, strength)

    trained = trained_sigmas(config)
    timesteps = stretch * spaced_timesteps(config, num_inference_steps, grid)
    sigmas = sigma_at(trained, timesteps)
    if grid.karras:
        ends = sigmas[[0, -1]]
        if grid.extra_timestep:
            ends = sigma_at(trained, stretch * np.array([total - 1.0, 0.0]))
        sigmas = karras_sigmas(*ends, num_inference_steps)
        timesteps = timestep_at(trained, sigmas)
        if grid.round_timesteps and not exact_steps:
            timesteps = timesteps.round()
    if grid.fixed_stride and not exact_steps:
        next_timesteps = timesteps - total // num_inference_steps
        next_sigmas = sigma_at(trained, next_timesteps)
    else:
        final_sigma = 0.0 if grid.final_sigma == "zero" else trained[0]
        next_timesteps = np.append(timesteps[1:], 0.0)
        next_sigmas = np.append(sigmas[1:], final_sigma)
    steps = np.stack([timesteps, next_timesteps], axis=1), np.stack([sigmas, next_sigmas], axis=1)
    if grid.restart:
        steps, first = tuple(ends[first:] for ends in steps), 0
        if grid.repeat_second:
            steps = tuple(np.insert(ends, 1, ends[1:2], axis=0) for ends in steps)
    return Steps(*steps, first)
