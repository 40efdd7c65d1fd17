"""Timesteps and noise levels against diffusers' arrays."""

import numpy as np
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler, PNDMScheduler

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.samplers.schedule import NoiseGrid, alphas_cumprod, betas, noise_levels, spaced_timesteps

# torch's tensors under NumPy 2, inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CONFIG = ScheduleConfig()
KINDS = {
    EulerDiscreteScheduler: NoiseGrid(),
    DDIMScheduler: NoiseGrid(round_timesteps=True, fixed_stride=True),
    DPMSolverMultistepScheduler: NoiseGrid(round_timesteps=True, extra_timestep=True),
    PNDMScheduler: NoiseGrid(round_timesteps=True, fixed_stride=True, repeat_second=True),
}


def reference(kind, config, **settings):
    names = ("beta_start", "beta_end", "beta_schedule", "timestep_spacing", "steps_offset")
    return kind(**{name: getattr(config, name) for name in names}, **settings)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_betas_and_their_products(beta_schedule):
    config = ScheduleConfig(beta_schedule=beta_schedule)
    scheduler = reference(DDIMScheduler, config)
    # diffusers multiplies 1000 numbers in float32
    np.testing.assert_allclose(betas(config), scheduler.betas.numpy(), rtol=1e-6)
    np.testing.assert_allclose(alphas_cumprod(config), scheduler.alphas_cumprod.numpy(), rtol=2e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", KINDS)
def test_timesteps_are_those_of_diffusers(kind, spacing):
    config = ScheduleConfig(timestep_spacing=spacing)
    scheduler = reference(kind, config, **({"skip_prk_steps": True} if kind is PNDMScheduler else {}))
    for steps in (*range(1, 61), 99, 100, 250, 333, 499, 500, 501, 997, 999):
        scheduler.set_timesteps(steps)
        ours = spaced_timesteps(config, steps, KINDS[kind])
        np.testing.assert_allclose(ours, scheduler.timesteps.numpy()[: len(ours)], rtol=2e-7, err_msg=f"{steps} steps")
        if steps <= 60:
            assert len(ours) == len(scheduler.timesteps)


def test_consistency_timesteps_are_those_of_diffusers():
    scheduler = reference(LCMScheduler, CONFIG)
    for steps in range(1, 51):
        scheduler.set_timesteps(steps)
        ours = spaced_timesteps(CONFIG, steps, NoiseGrid(spacing="consistency"))
        np.testing.assert_array_equal(ours, scheduler.timesteps.numpy())


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_karras_levels_are_those_of_diffusers(kind):
    scheduler = reference(kind, CONFIG, use_karras_sigmas=True)
    grid = NoiseGrid(
        karras=True, round_timesteps=KINDS[kind].round_timesteps, extra_timestep=KINDS[kind].extra_timestep
    )
    for steps in (1, 2, 10, 30):
        scheduler.set_timesteps(steps)
        path = noise_levels(CONFIG, grid, steps, 1.0)
        np.testing.assert_allclose(path.timesteps[:, 0], scheduler.timesteps.numpy(), rtol=0, atol=1e-3)
        sigmas = np.append(path.sigmas[:, 0], path.sigmas[-1, 1])
        np.testing.assert_allclose(sigmas, scheduler.sigmas.numpy(), rtol=2e-5)  # its least level is float32
