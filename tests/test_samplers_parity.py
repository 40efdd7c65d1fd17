"""Every table against diffusers' scheduler: image to image with one toy model, step by step, and the draws of noise."""

import dataclasses
import functools
import inspect
from importlib import import_module

import diffusers
import numpy as np
import pytest
import torch
from diffusers.utils import logging

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.samplers import AS_IN_DIFFUSERS, REGISTERS, SAMPLERS, build, canonical, row
from ssd1b_jax.samplers.schedule import LEAST_SIGNAL

# torch's tensors under NumPy 2, inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array(_wrap)?__ :DeprecationWarning")
torch.set_num_threads(1)

SSD_1B = {  # its scheduler_config.json
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
STEPS, STRENGTHS = (4, 5, 10, 25, 50), (0.1, 0.3, 0.6, 1.0)
FEW = ((4, 1.0), (10, 0.3), (10, 0.9), (25, 0.6))  # of steps and strengths, where there is much else to vary
SHAPE = (1, 3, 4, 4)

random = np.random.default_rng(0)
IMAGE, START_NOISE, PATTERN = random.standard_normal((3, *SHAPE))
NOISES = random.standard_normal((100, *SHAPE))


def model(latents, timestep):
    """Neither linear nor the same at any two timesteps, and each value looks at its neighbour."""
    return 1.3 * np.tanh(0.8 * latents + 0.6 * np.roll(latents, 1, axis=-1) + PATTERN * np.cos(timestep / 300))


@functools.cache
def scheduler_of(name, **settings):
    """Made as users make it, from the model's own; warnings about settings that other classes have are silenced."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    sampler = row(name)
    config = diffusers.EulerDiscreteScheduler.from_config(SSD_1B).config
    scheduler = getattr(diffusers, sampler.diffusers).from_config(config, **{**sampler.arguments, **settings})
    logging.set_verbosity(level)
    return scheduler


def their_run(monkeypatch, scheduler, steps, strength):
    """As StableDiffusionXLImg2ImgPipeline runs it: timesteps, model inputs, latents after every call, and draws."""
    scheduler.set_timesteps(steps)
    first = (steps - min(int(steps * strength), steps)) * scheduler.order
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    states = [scheduler.add_noise(torch.tensor(IMAGE), torch.tensor(START_NOISE), timesteps[:1])]
    seen, draws = [], []

    def randn_tensor(shape, **_):
        draws[-1] += 1
        return torch.tensor(NOISES[len(draws) - 1])

    monkeypatch.setattr(import_module(type(scheduler).__module__), "randn_tensor", randn_tensor, raising=False)
    for timestep in timesteps:
        draws.append(0)
        seen.append(scheduler.scale_model_input(states[-1], timestep))
        output = torch.tensor(model(seen[-1].numpy(), timestep.item()))
        states.append(scheduler.step(output, timestep, states[-1]).prev_sample)
    return timesteps.double().numpy(), torch.stack(seen).numpy(), torch.stack(states).numpy(), draws


def our_run(table):
    """The same by the table, in float64. `sampler.sample` is held to this in test_solvers."""
    state = np.zeros((1 + REGISTERS, *SHAPE))
    state[0] = table.signal * IMAGE + table.sigma * START_NOISE
    seen, states = [], [state[0]]
    for i in range(table.calls):
        seen.append(table.input_scales[i] * state[0])
        output = model(seen[-1], table.timesteps[i])
        state = np.tensordot(table.matrices[i], np.concatenate([state, output[None], NOISES[i][None]]), axes=1)
        states.append(state[0])
    return np.stack(seen), np.stack(states)


def error(ours, theirs):
    """The largest over the trajectory of max|a - b| / max|b| in one state."""
    assert ours.shape == theirs.shape
    axes = tuple(range(1, ours.ndim))
    return (np.abs(ours - theirs).max(axes) / np.abs(theirs).max(axes)).max()


def compare(monkeypatch, name, steps, strength, tolerance=1e-5, **settings):
    """Hold a whole trajectory to 1e-5, unless another tolerance is given.

    diffusers has its levels in float32, from float32 products of a thousand alphas. The timesteps
    that it looks up for levels, Karras's and those halfway through a step, are off by up to 1.3e-3.
    """
    table = build(name, ScheduleConfig(**settings), steps, strength)
    timesteps, seen, states, draws = their_run(monkeypatch, scheduler_of(name, **settings), steps, strength)
    our_seen, our_states = our_run(table)
    np.testing.assert_allclose(
        table.timesteps, timesteps, rtol=0, atol=2e-3 if "karras" in name or "dpm2" in name else 1e-4
    )
    assert error(our_seen, seen) <= tolerance
    assert error(our_states, states) <= tolerance
    assert table.steps_run == int(steps * strength)
    assert table.draws.astype(int).tolist() == draws


# `lms` is diffusers' where no step is skipped, `pndm` nowhere: they have copies of diffusers' way beside them.
COPIED = ("lms", "lms_karras", "pndm")
HELD = [name for name in SAMPLERS if name not in COPIED] + [*AS_IN_DIFFUSERS]
REPRESENTATIVES = ("euler", "dpm2_a", "dpmpp_2m_karras", "unipc")
every_sampler = pytest.mark.parametrize(
    "name", [name if name in REPRESENTATIVES else pytest.param(name, marks=pytest.mark.slow) for name in HELD]
)


def test_a_samplers_class_leads_back_to_it():
    for name, sampler in SAMPLERS.items():
        if "algorithm_type" not in sampler.arguments:  # the class is another sampler's without
            assert canonical(f"{sampler.diffusers} {sampler.schedule}") == name


def test_karras_levels_are_offered_where_diffusers_has_them():
    for name, sampler in SAMPLERS.items():
        if not sampler.schedule:
            offered = "use_karras_sigmas" in getattr(diffusers, sampler.diffusers)().config
            assert offered == (f"{name}_karras" in SAMPLERS)


@pytest.mark.parametrize("name", HELD)
def test_a_short_trajectory_is_that_of_diffusers(monkeypatch, name):
    compare(monkeypatch, name, 10, 0.6)


@pytest.mark.parametrize("name", ["lms", "lms_karras"])
def test_a_run_that_skips_no_step_is_that_of_diffusers(monkeypatch, name):
    compare(monkeypatch, name, 10, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD)
def test_trajectory_is_that_of_diffusers(monkeypatch, name):
    for steps in STEPS:
        for strength in STRENGTHS:
            if int(steps * strength) > 0:
                compare(monkeypatch, name, steps, strength)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@every_sampler
def test_other_spacings_are_those_of_diffusers(monkeypatch, name, spacing):
    for steps, strength in FEW:
        compare(monkeypatch, name, steps, strength, timestep_spacing=spacing)


@every_sampler
def test_v_prediction_is_that_of_diffusers(monkeypatch, name):
    for steps, strength in FEW:
        compare(monkeypatch, name, steps, strength, prediction_type="v_prediction")


def rescales(name):
    return "rescale_betas_zero_snr" in inspect.signature(getattr(diffusers, row(name).diffusers)).parameters


ZERO_SNR = [name for name in HELD if rescales(name)]


@pytest.mark.parametrize("name", ZERO_SNR)
def test_zero_terminal_snr_is_that_of_diffusers(monkeypatch, name):
    """Where diffusers has the rescaled betas. The last level keeps 2**-24 of the signal, which some classes have as 0.

    Latents there are 4096 times the signal, which diffusers rounds to float32.
    """
    settings = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    abar = scheduler_of(name, **settings).alphas_cumprod
    abar[-1] = max(abar[-1], LEAST_SIGNAL)
    for steps, strength in FEW:
        compare(monkeypatch, name, steps, strength, 1e-4, **settings)


@every_sampler
def test_the_fewest_steps_are_those_of_diffusers(monkeypatch, name):
    if name != "deis_karras":  # diffusers' first level is then its last too: the noise stays
        compare(monkeypatch, name, 1, 1.0)
    for steps, strength in ((2, 1.0), (3, 0.7), (14, 1.0), (15, 0.95)):
        compare(monkeypatch, name, steps, strength)


def test_spacing_is_an_argument_too():
    for name in SAMPLERS:
        asked = build(name, ScheduleConfig(), 10, 0.6, timestep_spacing="trailing")
        models_own = build(name, ScheduleConfig(timestep_spacing="trailing"), 10, 0.6)
        for a, b in zip(dataclasses.astuple(asked), dataclasses.astuple(models_own), strict=True):
            np.testing.assert_array_equal(a, b)
