"""What samplers are written in: symbols for what a model call is given, noise levels, and the run to make.

The names `LATENTS` to `NOISE` are the rows of a unit matrix. A sampler computes with them as its
paper does with the latents, the model's output and the noise, and what comes out are coefficients.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from ssd1b_jax.samplers.schedule import Steps, sigma_at, timestep_at

REGISTERS = 3  # LMS and PNDM look back on three calls; UniPC keeps its step's start and two predictions
INPUTS = 3 + REGISTERS
LATENTS, R1, R2, R3, OUTPUT, NOISE = np.eye(INPUTS)

Symbol = Float[np.ndarray, " inputs"]


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
    def ratio(self) -> float:
        """Noise to signal: sigma where alpha is 1."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """Half of it: lambda in the papers, in which DPM-Solver measures steps. Not of the level without noise."""
        return -math.log(self.ratio)

    @property
    def eps(self) -> Symbol:
        return self.eps_of(LATENTS, OUTPUT)

    @property
    def clean(self) -> Symbol:
        return self.clean_of(LATENTS, self.eps)

    def eps_of(self, latents: Symbol, output: Symbol) -> Symbol:
        if self.prediction_type == "epsilon":
            return output
        return self.scale * (self.alpha * output + self.sigma * self.scale * latents)  # Salimans & Ho, 2202.00512

    def clean_of(self, latents: Symbol, eps: Symbol) -> Symbol:
        return (latents - self.sigma * eps) / self.alpha

    def latents(self, clean: Symbol, eps: Symbol) -> Symbol:
        return self.alpha * clean + self.sigma * eps


class Call(NamedTuple):
    """A model call at a level, the level that it leads `to`, and the latents and registers that follow.

    `trial`: the step goes on with another call. `draws`: diffusers draws noise here, whether it has weight or not.
    """

    level: Level
    to: Level
    latents: Symbol
    registers: tuple[Symbol, ...] = ()
    trial: bool = False
    draws: bool = False


Calls = Iterator[Call]


@dataclass(frozen=True)
class Run:
    """The steps to make, each from one level to another: iterating gives those that a strength leaves.

    `steps` and `len` are of the full run, since some samplers count from its start or its end.
    `exploding` latents are clean + sigma * eps; the others keep their variance.
    """

    path: Steps
    trained: Float[np.ndarray, " timesteps"]
    exploding: bool
    prediction_type: Literal["epsilon", "v_prediction"]

    def __iter__(self) -> Iterator[tuple[Level, Level]]:
        return iter(self.steps[self.first :])

    def __len__(self) -> int:
        return len(self.path.timesteps)

    @property
    def first(self) -> int:
        return self.path.first

    @property
    def steps(self) -> list[tuple[Level, Level]]:
        ends = zip(self.path.timesteps.tolist(), self.path.sigmas.tolist(), strict=True)
        return [(self.level(t[0], sigma[0]), self.level(t[1], sigma[1])) for t, sigma in ends]

    def level(self, timestep: float, ratio: float) -> Level:
        alpha = 1.0 if self.exploding else 1 / math.hypot(1, ratio)
        return Level(timestep, alpha, alpha * ratio, self.prediction_type)

    def at_timestep(self, timestep: float) -> Level:
        return self.level(timestep, sigma_at(self.trained, np.array([timestep])).item())

    def at_ratio(self, ratio: float) -> Level:
        return self.level(timestep_at(self.trained, np.array([ratio])).item(), ratio)
