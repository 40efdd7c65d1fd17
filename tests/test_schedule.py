"""Schedules against diffusers' arrays and closed forms, and the rules of strength."""

import numpy as np
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.schedule import (
    Grid,
    alphas_cumprod,
    betas,
    karras_sigmas,
    noise_levels,
    sigma_at,
    spaced_timesteps,
    steps_to_run,
    timestep_at,
    trained_sigmas,
)

# torch's tensors under NumPy 2, inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CONFIG = ScheduleConfig()
KINDS = {
    EulerDiscreteScheduler: Grid(),
    DDIMScheduler: Grid(whole=True, end="least"),
    DPMSolverMultistepScheduler: Grid(whole=True, spare=True),
}


def reference(kind, config, **settings):
    names = ("beta_start", "beta_end", "beta_schedule", "timestep_spacing", "steps_offset")
    return kind(**{name: getattr(config, name) for name in names}, **settings)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_betas_and_their_products(beta_schedule):
    config = ScheduleConfig(beta_schedule=beta_schedule)
    scheduler = reference(DDIMScheduler, config)
    assert betas(config)[[0, -1]] == pytest.approx([config.beta_start, config.beta_end], rel=1e-12)
    # diffusers multiplies 1000 numbers in float32
    np.testing.assert_allclose(betas(config), scheduler.betas.numpy(), rtol=1e-6)
    np.testing.assert_allclose(alphas_cumprod(config), scheduler.alphas_cumprod.numpy(), rtol=2e-5)


def test_noise_levels_of_the_released_models():
    """The numbers that everyone's Stable Diffusion prints: 0.0292 to 14.6146."""
    sigmas = trained_sigmas(CONFIG)
    assert sigmas[[0, -1]] == pytest.approx([0.029167, 14.614641], rel=1e-5)
    assert np.all(np.diff(sigmas) > 0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", KINDS)
def test_timesteps_are_those_of_diffusers(kind, spacing):
    config = ScheduleConfig(timestep_spacing=spacing)
    scheduler = reference(kind, config)
    for steps in (*range(1, 61), 99, 100, 250, 333, 499, 500, 501, 997, 999):
        scheduler.set_timesteps(steps)
        ours = spaced_timesteps(config, steps, KINDS[kind])
        np.testing.assert_allclose(ours, scheduler.timesteps.numpy()[:steps], rtol=2e-7, err_msg=f"{steps} steps")


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_karras_levels_are_those_of_diffusers(kind):
    scheduler = reference(kind, CONFIG, use_karras_sigmas=True)
    grid = Grid(karras=True, whole=KINDS[kind].whole, spare=KINDS[kind].spare)
    for steps in (1, 2, 10, 30):
        scheduler.set_timesteps(steps)
        timesteps, sigmas = noise_levels(CONFIG, grid, steps, 1.0)
        np.testing.assert_allclose(timesteps, scheduler.timesteps.numpy(), rtol=0, atol=1e-3)
        np.testing.assert_allclose(sigmas, scheduler.sigmas.numpy(), rtol=2e-5)  # its least level is float32


def test_karras_levels_are_even_in_their_seventh_root():
    roots = karras_sigmas(14.6, 0.03, 9) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), np.full(8, (0.03 ** (1 / 7) - 14.6 ** (1 / 7)) / 8), rtol=1e-10)


def test_timesteps_and_sigmas_invert_each_other():
    trained, timesteps = trained_sigmas(CONFIG), np.arange(1000.0)
    np.testing.assert_allclose(timestep_at(trained, sigma_at(trained, timesteps)), timesteps, atol=1e-9)


def test_strength_runs_the_last_steps():
    full_timesteps, full_sigmas = noise_levels(CONFIG, Grid(), 30, 1.0)
    timesteps, sigmas = noise_levels(CONFIG, Grid(), 30, 0.6)
    np.testing.assert_array_equal(timesteps, full_timesteps[-18:])
    np.testing.assert_array_equal(sigmas, full_sigmas[-19:])


def test_last_level_is_no_noise_or_the_least():
    assert noise_levels(CONFIG, Grid(), 30, 0.6)[1][-1] == 0
    assert noise_levels(CONFIG, Grid(end="least"), 30, 0.6)[1][-1] == trained_sigmas(CONFIG)[0]


def test_exact_steps_scales_the_timesteps_of_the_full_run():
    full, _ = noise_levels(CONFIG, Grid(), 30, 1.0)
    timesteps, sigmas = noise_levels(CONFIG, Grid(), 30, 0.37, exact_steps=True)
    np.testing.assert_allclose(timesteps, 0.37 * full, rtol=1e-12)
    assert np.all(np.diff(sigmas) < 0)


def test_the_least_strength_that_the_error_names_runs_a_step():
    for steps in range(2, 1001):
        with pytest.raises(ValueError, match="strength must be at least") as error:
            steps_to_run(steps, 0.9 / steps)
        least = float(str(error.value).split()[5])
        assert steps_to_run(steps, least) == 1
        assert least < 1 / steps + 1e-4


@pytest.mark.parametrize("exact_steps", [False, True])
@pytest.mark.parametrize("strength", [0.0, -0.1, 1.5, float("nan")])
def test_strength_out_of_range(strength, exact_steps):
    with pytest.raises(ValueError, match=rf"strength must be in \(0, 1\], got {strength}"):
        noise_levels(CONFIG, Grid(), 30, strength, exact_steps)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range(steps):
    with pytest.raises(ValueError, match=rf"num_inference_steps must be in 1\.\.1000, got {steps}"):
        noise_levels(CONFIG, Grid(), steps, 0.6)
