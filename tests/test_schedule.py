"""Schedules against closed forms, and the rules of strength."""

import numpy as np
import pytest

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.samplers.schedule import (
    LCM_STEPS,
    NoiseGrid,
    alphas_cumprod,
    betas,
    karras_sigmas,
    noise_levels,
    sigma_at,
    steps_to_run,
    timestep_at,
    trained_sigmas,
)

CONFIG = ScheduleConfig()


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_betas_reach_from_first_to_last(beta_schedule):
    config = ScheduleConfig(beta_schedule=beta_schedule)
    assert betas(config)[[0, -1]] == pytest.approx([config.beta_start, config.beta_end], rel=1e-12)
    assert alphas_cumprod(config)[-1] == pytest.approx(np.exp(np.log1p(-betas(config)).sum()), rel=1e-10)


def test_noise_levels_of_the_released_models():
    """The numbers that everyone's Stable Diffusion prints: 0.0292 to 14.6146."""
    sigmas = trained_sigmas(CONFIG)
    assert sigmas[[0, -1]] == pytest.approx([0.029167, 14.614641], rel=1e-5)
    assert np.all(np.diff(sigmas) > 0)


def test_karras_levels_are_even_in_their_seventh_root():
    roots = karras_sigmas(14.6, 0.03, 9) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), np.full(8, (0.03 ** (1 / 7) - 14.6 ** (1 / 7)) / 8), rtol=1e-10)


def test_timesteps_and_sigmas_invert_each_other():
    trained, timesteps = trained_sigmas(CONFIG), np.arange(1000.0)
    np.testing.assert_allclose(timestep_at(trained, sigma_at(trained, timesteps)), timesteps, atol=1e-9)


def test_strength_skips_the_first_steps():
    full, part = noise_levels(CONFIG, NoiseGrid(), 30, 1.0), noise_levels(CONFIG, NoiseGrid(), 30, 0.6)
    assert (full.first, part.first) == (0, 12)
    np.testing.assert_array_equal(part.timesteps, full.timesteps)
    np.testing.assert_array_equal(part.sigmas, full.sigmas)


def test_steps_end_where_the_next_starts():
    for grid in (NoiseGrid(), NoiseGrid(karras=True), NoiseGrid(round_timesteps=True, extra_timestep=True)):
        path = noise_levels(CONFIG, grid, 30, 0.6)
        np.testing.assert_array_equal(path.timesteps[:-1, 1], path.timesteps[1:, 0])
        np.testing.assert_array_equal(path.sigmas[:-1, 1], path.sigmas[1:, 0])


def test_last_level_is_no_noise_or_the_least():
    assert noise_levels(CONFIG, NoiseGrid(), 30, 0.6).sigmas[-1, 1] == 0
    for grid in (NoiseGrid(final_sigma="sigma_min"), NoiseGrid(fixed_stride=True)):
        assert noise_levels(CONFIG, grid, 30, 0.6).sigmas[-1, 1] == trained_sigmas(CONFIG)[0]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_strides_are_equal_and_with_exact_steps_meet(spacing):
    config = ScheduleConfig(timestep_spacing=spacing)
    starts, ends = noise_levels(config, NoiseGrid(round_timesteps=True, fixed_stride=True), 30, 1.0).timesteps.T
    np.testing.assert_array_equal(starts - ends, 33)
    assert np.array_equal(starts[1:], ends[:-1]) == (spacing == "leading")
    starts, ends = noise_levels(
        config, NoiseGrid(round_timesteps=True, fixed_stride=True), 30, 0.7, exact_steps=True
    ).timesteps.T
    np.testing.assert_array_equal(starts[1:], ends[:-1])


def test_twice_lists_the_second_timestep_twice():
    timesteps = noise_levels(CONFIG, NoiseGrid(repeat_second=True), 10, 1.0).timesteps[:, 0]
    np.testing.assert_array_equal(timesteps, [901, 801, 801, 701, 601, 501, 401, 301, 201, 101, 1])
    assert len(noise_levels(CONFIG, NoiseGrid(repeat_second=True), 1, 1.0).timesteps) == 1


def test_exact_steps_scales_the_timesteps_of_the_full_run():
    full = noise_levels(CONFIG, NoiseGrid(), 30, 1.0)
    path = noise_levels(CONFIG, NoiseGrid(), 30, 0.37, exact_steps=True)
    assert path.first == 0
    np.testing.assert_allclose(path.timesteps, 0.37 * full.timesteps, rtol=1e-12)
    assert np.all(path.sigmas[:, 1] < path.sigmas[:, 0])


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
        noise_levels(CONFIG, NoiseGrid(), 30, strength, exact_steps)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range(steps):
    with pytest.raises(ValueError, match=rf"num_inference_steps must be in 1\.\.1000, got {steps}"):
        noise_levels(CONFIG, NoiseGrid(), steps, 0.6)


def test_consistency_steps_are_few():
    grid = NoiseGrid(spacing="consistency")
    assert len(noise_levels(CONFIG, grid, LCM_STEPS, 1.0).timesteps) == LCM_STEPS
    with pytest.raises(ValueError, match=r"num_inference_steps must be in 1\.\.50, got 51"):
        noise_levels(CONFIG, grid, 51, 1.0)
