"""Every sampler as a table of coefficients: NumPy in float64, on the host, for one picture.

Each sampler is linear in the latents, the model's outputs and the noise, so it is a general linear
method (Butcher, Acta Numerica 15, 2006): model call i maps

    [latents, r1..r4, output, noise]  to  [latents, r1..r4]

by a matrix of its own, and `sampler.sample` runs any of them with one program. The matrices are
not derived by hand. The names on the left are the rows of a unit matrix, so a sampler below is its
paper's update written in these symbols, and what it computes with them is the matrix.

A new sampler is one such function and one line in `SAMPLERS`. Registers carry what later calls
need: the history of a multistep method, the start of a step that calls the model twice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.schedule import Grid, noise_levels

REGISTERS = 4  # as many as UniPC of order 3 keeps: the step's start and three predictions
INPUTS = 3 + REGISTERS
LATENTS, R1, R2, R3, R4, OUTPUT, NOISE = np.eye(INPUTS)

Symbol = Float[np.ndarray, " inputs"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What one picture's sampling loop does, a row for each model call.

    The loop starts from `signal * encoded image + sigma * noise`. The model sees `scales * latents`
    at `timesteps`; `matrices` then give the next state, and `clean` the predicted clean latents.
    """

    timesteps: Float[np.ndarray, " calls"]
    scales: Float[np.ndarray, " calls"]
    matrices: Float[np.ndarray, "calls state inputs"]
    clean: Float[np.ndarray, "calls inputs"]
    signal: float
    sigma: float
    steps_run: int

    @property
    def calls(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class Level:
    """A noise level, where latents are `alpha * clean + sigma * eps`, and what the model's output says there."""

    timestep: float
    alpha: float
    sigma: float
    prediction_type: Literal["epsilon", "v_prediction"]

    @property
    def scale(self) -> float:
        """The model expects latents whose noise and signal have squares that add to 1."""
        return 1 / math.hypot(self.alpha, self.sigma)

    @property
    def eps(self) -> Symbol:
        if self.prediction_type == "epsilon":
            return OUTPUT
        return self.scale * (self.alpha * OUTPUT + self.sigma * self.scale * LATENTS)  # Salimans & Ho, 2202.00512

    @property
    def clean(self) -> Symbol:
        return (LATENTS - self.sigma * self.eps) / self.alpha

    def latents(self, clean: Symbol, eps: Symbol) -> Symbol:
        return self.alpha * clean + self.sigma * eps


class Call(NamedTuple):
    """A model call at a level, and the latents and registers that follow it."""

    level: Level
    latents: Symbol
    registers: tuple[Symbol, ...] = ()


Calls = Iterator[Call]


def euler(levels: Sequence[Level]) -> Calls:
    """Keep the predicted eps and lower its share: DDIM (Song et al., 2010.02502, Eq. 12 with sigma 0).

    Where alpha is 1 this is Euler's method on dx/dsigma = eps (Karras et al., 2206.00364).
    """
    for now, to in pairwise(levels):
        yield Call(now, to.latents(now.clean, now.eps))


def euler_a(levels: Sequence[Level]) -> Calls:
    """Euler's method to below the next level, then fresh noise up to it (k-diffusion's ancestral step, eta 1).

    For exploding latents, as is `heun`.
    """
    for now, to in pairwise(levels):
        down = to.sigma**2 / now.sigma
        up = math.sqrt(to.sigma**2 - down**2)
        yield Call(now, now.clean + down * now.eps + up * NOISE)


def heun(levels: Sequence[Level]) -> Calls:
    """An Euler step, repeated with the mean of the slopes at its ends (Karras et al., 2206.00364, Algorithm 1)."""
    for now, to in pairwise(levels):
        tried = to.latents(now.clean, now.eps)
        if to.sigma == 0:
            yield Call(now, tried)
        else:
            yield Call(now, tried, registers=(LATENTS, now.eps))
            start, slope = R1, R2
            yield Call(to, start + (to.sigma - now.sigma) * (slope + to.eps) / 2)


def dpmpp_2m(levels: Sequence[Level]) -> Calls:
    """Clean latents extrapolated from two calls (Lu et al., 2211.01095, Algorithm 2); h is the step in log SNR / 2.

    First order where there is no step to look back on, and into the level without noise.
    """
    last_h = 0.0
    for now, to in pairwise(levels):
        decay = (to.sigma / to.alpha) / (now.sigma / now.alpha)  # exp(-h)
        clean = now.clean
        if to.sigma > 0:
            h = -math.log(decay)
            if last_h > 0:
                clean = clean + h / (2 * last_h) * (clean - R1)
            last_h = h
        yield Call(now, to.sigma / now.sigma * LATENTS + to.alpha * (1 - decay) * clean, registers=(now.clean,))


@dataclass(frozen=True)
class Sampler:
    """A row of the registry. `exploding` latents are clean + sigma * eps; the others keep their variance."""

    description: str
    calls: Callable[[Sequence[Level]], Calls]
    grid: Grid
    exploding: bool = True


# The grids are those of diffusers' scheduler classes, as is the choice of samplers with Karras levels.
# DDIM goes to its next timestep; diffusers' steps by 1000 // steps, which is the same with leading spacing.
_K, _K_KARRAS = Grid(), Grid(karras=True)
_DDIM = Grid(whole=True, end="least")
_DPM, _DPM_KARRAS = Grid(whole=True, spare=True), Grid(whole=True, spare=True, karras=True)

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler("one call a step, first order; the models' own default", euler, _K),
    "euler_karras": Sampler("euler on Karras noise levels: more steps near the end", euler, _K_KARRAS),
    "euler_a": Sampler("euler with fresh noise at every step: never settles, varies more", euler_a, _K),
    "ddim": Sampler("first order, the classic; ends at the least trained noise level", euler, _DDIM, exploding=False),
    "heun": Sampler("two calls a step, second order: slow and precise", heun, _K),
    "heun_karras": Sampler("heun on Karras noise levels", heun, _K_KARRAS),
    "dpmpp_2m": Sampler("one call a step, second order: good in 20 steps", dpmpp_2m, _DPM, exploding=False),
    "dpmpp_2m_karras": Sampler("dpmpp_2m on Karras noise levels", dpmpp_2m, _DPM_KARRAS, exploding=False),
}


def build(
    name: str,
    schedule_config: ScheduleConfig,
    num_inference_steps: int,
    strength: float,
    exact_steps: bool = False,
) -> Table:
    """The table of one picture. ValueError for an unknown sampler, or numbers that run no step.

    What `strength` and `exact_steps` do is told in `schedule.noise_levels`.
    """
    if name not in SAMPLERS:
        raise ValueError(f"scheduler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    sampler = SAMPLERS[name]
    timesteps, sigmas = noise_levels(schedule_config, sampler.grid, num_inference_steps, strength, exact_steps)
    alphas = np.ones_like(sigmas) if sampler.exploding else 1 / np.hypot(1, sigmas)
    columns = np.stack([np.append(timesteps, 0.0), alphas, alphas * sigmas], axis=1).tolist()
    levels = [Level(*column, prediction_type=schedule_config.prediction_type) for column in columns]
    calls = list(sampler.calls(levels))
    matrices = np.zeros((len(calls), 1 + REGISTERS, INPUTS))
    for matrix, call in zip(matrices, calls, strict=True):
        matrix[: 1 + len(call.registers)] = call.latents, *call.registers
    return Table(
        timesteps=np.array([call.level.timestep for call in calls]),
        scales=np.array([call.level.scale for call in calls]),
        matrices=matrices,
        clean=np.stack([call.level.clean for call in calls]),
        signal=levels[0].alpha,
        sigma=levels[0].sigma,
        steps_run=len(levels) - 1,
    )
