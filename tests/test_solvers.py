"""Tables against diffusers' schedulers, against the exact solution for Gaussian data, and against their own rules."""

import dataclasses
import functools
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.sampler import begin, sample, stack
from ssd1b_jax.solvers import INPUTS, LATENTS, NOISE, OUTPUT, REGISTERS, SAMPLERS, build

# torch's tensors under NumPy 2, inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
torch.set_num_threads(1)

SSD_1B = {  # the parts of SSD-1B's scheduler_config.json that these classes read
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2}
KARRAS = {"use_karras_sigmas": True}
REFERENCES = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_karras": (EulerDiscreteScheduler, KARRAS),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "heun_karras": (HeunDiscreteScheduler, KARRAS),
    "dpmpp_2m": (DPMSolverMultistepScheduler, DPM),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, DPM | KARRAS),
}
STEPS = (1, 2, 4, 7, 20, 30, 50)
STRENGTHS = (0.1, 0.3, 0.6, 1.0)
SHAPE = (1, 8, 8, 4)
CONFIG = ScheduleConfig()


def inputs(calls):
    """An encoded image, the starting noise, and a model output and a noise for every call."""
    random = np.random.default_rng(0)
    draw = functools.partial(random.standard_normal, dtype=np.float32)
    return draw(SHAPE), draw(SHAPE), draw((calls, *SHAPE)), draw((calls, *SHAPE))


def diffusers_run(monkeypatch, scheduler, steps, strength, encoded, start_noise, outputs, noises):
    """diffusers' image-to-image loop: timesteps, model inputs, and the latents before and after every call."""
    scheduler.set_timesteps(steps)
    first = (steps - min(int(steps * strength), steps)) * scheduler.order
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    latents = scheduler.add_noise(torch.tensor(encoded), torch.tensor(start_noise), timesteps[:1])
    states, seen = [latents], []
    for timestep, output, noise in zip(timesteps, outputs, noises, strict=False):
        module = import_module(type(scheduler).__module__)
        monkeypatch.setattr(module, "randn_tensor", lambda *_, noise=noise, **__: torch.tensor(noise), raising=False)
        seen.append(scheduler.scale_model_input(states[-1], timestep))
        states.append(scheduler.step(torch.tensor(output), timestep, states[-1]).prev_sample)
    return timesteps.double().numpy(), torch.stack(seen).numpy(), torch.stack(states).numpy()


@jax.jit
def one_call(state, rows, i, output, noise):
    return sample(lambda latents, timesteps: output, state, rows, i, i + 1, lambda i: noise)


def our_run(table, encoded, start_noise, outputs, noises):
    """The same through the compiled loop, one call at a time."""
    rows = jax.device_put(stack([table]))
    state = begin(rows, jnp.asarray(encoded), jnp.asarray(start_noise))
    states = [state.latents]
    for i in range(table.calls):
        state = one_call(state, rows, i, outputs[i], noises[i])
        states.append(state.latents)
    states = np.stack(states)
    return table.timesteps, states[:-1] * table.scales[:, None, None, None, None].astype(np.float32), states


def error(ours, theirs):
    """The largest over the trajectory of max|a - b| / max|b| in one state."""
    assert ours.shape == theirs.shape
    axes = tuple(range(1, ours.ndim))
    return (np.abs(ours - theirs).max(axes) / np.abs(theirs).max(axes)).max()


def compare(monkeypatch, name, steps, strength, **settings):
    """Hold a whole trajectory to 1e-5: both sides compute in float32, and differ by 4e-6 at most."""
    kind, extra = REFERENCES[name]
    table = build(name, ScheduleConfig(**settings), steps, strength)
    data = inputs(table.calls)
    reference = kind.from_config(SSD_1B | extra | settings)
    timesteps, seen, states = diffusers_run(monkeypatch, reference, steps, strength, *data)
    our_timesteps, our_seen, our_states = our_run(table, *data)
    assert table.steps_run == int(steps * strength)
    # diffusers has Karras levels from float32 products of alphas: their timesteps move by up to 1.2e-3
    np.testing.assert_allclose(our_timesteps, timesteps, rtol=0, atol=2e-3 if "karras" in name else 1e-4)
    assert error(our_seen, seen) <= 1e-5
    assert error(our_states, states) <= 1e-5


def test_every_sampler_has_a_reference():
    assert set(REFERENCES) == set(SAMPLERS)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_trajectory_is_that_of_diffusers(monkeypatch, name, steps):
    for strength in STRENGTHS:
        if int(steps * strength) > 0:
            compare(monkeypatch, name, steps, strength)


@pytest.mark.parametrize("name", SAMPLERS)
def test_v_prediction_is_that_of_diffusers(monkeypatch, name):
    for steps, strength in ((4, 1.0), (20, 0.6)):
        compare(monkeypatch, name, steps, strength, prediction_type="v_prediction")


SPACINGS = [(name, spacing) for name in SAMPLERS for spacing in ("trailing", "linspace")]
SPACINGS.remove(("ddim", "linspace"))  # diffusers' DDIM always steps by 1000 // N, past its own next timestep


@pytest.mark.parametrize(("name", "spacing"), SPACINGS)
def test_other_spacings_are_those_of_diffusers(monkeypatch, name, spacing):
    for steps, strength in ((4, 1.0), (20, 0.6)):
        compare(monkeypatch, name, steps, strength, timestep_spacing=spacing)


# Gaussian data, mean MEAN and standard deviation SPREAD: the ideal eps and the exact solution are known.
MEAN, SPREAD = 0.3, 1.0


def sigmas_of(table):
    """The noise-to-signal ratio at every call: clean latents are a multiple of latents - sigma * eps."""
    return -table.clean @ OUTPUT


def ideal_run(table, start):
    """Latents, in the variance exploding view, at every call of an ideal denoiser that starts from `start`."""
    state, seen = np.zeros(1 + REGISTERS), []
    state[0] = table.signal * start
    for scale, matrix, sigma in zip(table.scales, table.matrices, sigmas_of(table), strict=True):
        seen.append(scale * state[0] * np.hypot(1, sigma))
        eps = sigma * (seen[-1] - MEAN) / (SPREAD**2 + sigma**2)
        state = matrix @ np.append(state, [eps, 0.0])
    return np.array(seen)


ORDERS = {name: 2 if "heun" in name or "2m" in name else 1 for name in SAMPLERS if name != "euler_a"}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_converges_to_the_exact_solution_at_its_order(name, order):
    """Along the probability flow, latents leave the mean as sqrt(SPREAD^2 + sigma^2) does.

    Measured above sigma 0.3: below, timesteps crowd so little that log sigma has no small steps
    (from timestep 1 to 4, at 320 steps, is a factor of 1.7), and the last step to no noise at all
    is one step however many there are.
    """
    errors = []
    for steps in (80, 160, 320):
        table = build(name, CONFIG, steps, 1.0)
        spread = np.hypot(SPREAD, sigmas_of(table))
        exact = MEAN + 2 * spread
        deviation = np.abs(ideal_run(table, exact[0]) - exact)
        calls_a_step = 2 if "heun" in name else 1  # what Heun tries at the second is of first order
        errors.append(deviation[sigmas_of(table) > 0.3][::calls_a_step].max())
    observed = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(observed, order, atol=0.1)


def test_euler_a_converges_to_the_data_in_mean_and_variance():
    """Of Gaussian latents only mean and variance change, each by the table's own coefficients."""
    errors = []
    for steps in (80, 160, 320):
        table = build("euler_a", CONFIG, steps, 1.0)
        sigmas = sigmas_of(table)
        mean, variance = MEAN + 0.7, SPREAD**2 + sigmas[0] ** 2
        for matrix, sigma in zip(table.matrices[:, 0], sigmas, strict=True):
            gain = sigma / (SPREAD**2 + sigma**2)
            mean = matrix @ LATENTS * mean + matrix @ OUTPUT * gain * (mean - MEAN)
            variance = (matrix @ LATENTS + matrix @ OUTPUT * gain) ** 2 * variance + (matrix @ NOISE) ** 2
        errors.append(abs(variance - SPREAD**2))
        assert abs(mean - MEAN) < 0.01  # of the 0.7 that it started off by
    assert errors[-1] < 0.025
    assert np.all(np.divide(errors[:-1], errors[1:]) > 1.75)


@pytest.mark.parametrize("name", SAMPLERS)
def test_tables_are_finite_and_well_formed(name):
    """Also where steps have no length: 1000 steps from timestep 1000, which is the level of 999."""
    for steps in (1, 2, 3, 501, 999, 1000):
        for exact_steps in (False, True):
            table = build(name, CONFIG, steps, 1.0, exact_steps)
            assert table.matrices.shape == (table.calls, 1 + REGISTERS, INPUTS)
            assert table.calls == (2 * steps - 1 if "heun" in name else steps)
            for value in dataclasses.astuple(table):
                assert np.isfinite(value).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_starts_where_its_first_call_expects(name):
    """The model sees unit variance when image and noise have it, and the true noise gives the image back."""
    for strength in STRENGTHS:
        table = build(name, CONFIG, 20, strength)
        assert table.scales[0] * np.hypot(table.signal, table.sigma) == pytest.approx(1, rel=1e-12)
        image, noise = 0.7, -1.3
        latents = table.signal * image + table.sigma * noise
        assert table.clean[0] @ (latents * LATENTS + noise * OUTPUT) == pytest.approx(image, rel=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_steps_at_full_strength_is_the_full_run(name):
    plain, exact = build(name, CONFIG, 20, 1.0), build(name, CONFIG, 20, 1.0, exact_steps=True)
    # dpmpp_2m_karras rounds its timesteps as diffusers does, but not where strength is continuous
    np.testing.assert_allclose(exact.timesteps, plain.timesteps, rtol=0, atol=0.5 if name == "dpmpp_2m_karras" else 0)
    np.testing.assert_array_equal(exact.matrices, plain.matrices)
    assert (exact.signal, exact.sigma, exact.steps_run) == (plain.signal, plain.sigma, plain.steps_run)


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_steps_has_no_dead_zones(name):
    tables = [build(name, CONFIG, 4, strength / 400, exact_steps=True) for strength in range(1, 401)]
    shares = np.arctan([table.sigma / table.signal for table in tables])  # of noise, from 0 to pi / 2
    assert {table.steps_run for table in tables} == {4}
    assert np.all(np.diff(shares) > 0)
    assert np.diff(shares).max() < 0.02  # the four strengths of the default are about 0.3 apart


def test_exact_steps_tells_close_strengths_apart():
    def sigma(strength, exact_steps):
        return build("euler", CONFIG, 30, strength, exact_steps).sigma

    assert sigma(0.834, False) == sigma(0.843, False)
    assert sigma(0.843, True) > 1.02 * sigma(0.834, True)
    assert sigma(0.02, True) > 0.1  # and by default 0.02 is refused


def test_unknown_sampler_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"scheduler must be one of euler, .*dpmpp_2m_karras, got 'x'"):
        build("x", CONFIG, 30, 0.6)


def test_every_sampler_says_what_it_is():
    assert all(sampler.description and "\n" not in sampler.description for sampler in SAMPLERS.values())
