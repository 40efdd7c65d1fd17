"""The language of samplers: symbols for the inputs of a model call, noise levels, and the run's steps.

The names `LATENTS` to `NOISE` are the rows of a unit matrix. A sampler computes with them as its
paper computes with latents, the model's output and noise. The results are coefficients.
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
    """A noise level: latents are `alpha * denoised + sigma * eps`, and the model predicts eps or v."""

    timestep: float
    alpha: float
    sigma: float
    prediction_type: Literal["epsilon", "v_prediction"]

    @property
    def input_scale(self) -> float:
        """The factor for the model's input, whose alpha and sigma have squares that add to 1."""
        return 1 / math.hypot(self.alpha, self.sigma)

    @property
    def ratio(self) -> float:
        """Noise to signal; sigma where alpha is 1."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio: lambda in DPM-Solver's papers. The level must have noise."""
        return -math.log(self.ratio)

    @property
    def eps(self) -> Symbol:
        return self.eps_of(LATENTS, OUTPUT)

    @property
    def denoised(self) -> Symbol:
        return self.denoised_of(LATENTS, self.eps)

    def eps_of(self, latents: Symbol, output: Symbol) -> Symbol:
        if self.prediction_type == "epsilon":
            return output
        # Salimans & Ho, 2202.00512
        return self.input_scale * (self.alpha * output + self.sigma * self.input_scale * latents)

    def denoised_of(self, latents: Symbol, eps: Symbol) -> Symbol:
        return (latents - self.sigma * eps) / self.alpha

    def latents(self, denoised: Symbol, eps: Symbol) -> Symbol:
        return self.alpha * denoised + self.sigma * eps


class Call(NamedTuple):
    """A model call at `level`, and the latents, at the level `to`, and registers that follow.

    `trial`: the step goes on with another call. `draws`: diffusers draws noise here, even of no weight.
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
    """The steps to run, each from one level to another. Iterating gives those that a strength leaves.

    `steps` and `len` are of the full run: some samplers count from its start or its end.
    `exploding` latents have alpha 1; the others keep their variance.
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
