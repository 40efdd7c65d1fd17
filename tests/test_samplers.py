"""Tables against the exact solution for Gaussian data, against their own rules, and every name of every sampler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.engine.loop import MAX_CALLS, begin, sample, stack
from ssd1b_jax.errors import ConfigError
from ssd1b_jax.samplers import INPUTS, LATENTS, NOISE, OUTPUT, REGISTERS, SAMPLERS, build, canonical
from ssd1b_jax.samplers.multistep import integrate
from ssd1b_jax.samplers.schedule import trained_sigmas

CONFIG = ScheduleConfig()
SPACINGS = ("leading", "trailing", "linspace")
LEAST = trained_sigmas(CONFIG)[0]
# These end not quite without noise.
ENDS_AT_LEAST = {
    name for name, sampler in SAMPLERS.items() if sampler.grid.final_sigma == "sigma_min"
}  # not quite without noise

# Gaussian data, mean MEAN and standard deviation SPREAD: the ideal eps and the exact solution are known.
MEAN, SPREAD = 0.3, 1.0


def sigmas_of(table):
    """The noise-to-signal ratio at every call: clean latents are a multiple of latents - sigma * eps."""
    return -table.denoised @ OUTPUT


def ideal_run(table, start):
    """Latents, in the variance exploding view, at every call of an ideal denoiser that starts from `start`."""
    state, seen = np.zeros(1 + REGISTERS), []
    state[0] = table.signal * start
    for scale, matrix, sigma in zip(table.input_scales, table.matrices, sigmas_of(table), strict=True):
        seen.append(scale * state[0] * np.hypot(1, sigma))
        eps = sigma * (seen[-1] - MEAN) / (SPREAD**2 + sigma**2)
        state = matrix @ np.append(state, [eps, 0.0])
    return np.array(seen)


def largest_error(name, steps, *settings):
    """The largest over a run's levels above 0.3, where a step starts.

    Along the probability flow, latents leave the mean as sqrt(SPREAD^2 + sigma^2) does. Below 0.3
    timesteps crowd so little that log sigma has no small steps (from timestep 1 to 7, at 160 steps,
    is a factor of 2.0), and the last step to no noise at all is one step however many there are.
    What is tried within a step is of first order, as are the halves of DPM-Solver++(2S)'s pairs.
    """
    table = build(name, CONFIG, steps, *settings)
    spread = np.hypot(SPREAD, sigmas_of(table))
    exact = MEAN + 2 * spread
    deviation = np.abs(ideal_run(table, exact[0]) - exact)
    starts = np.diff(table.steps, prepend=-1) > 0
    if "2s" in name:
        starts[1::2] = False
    return deviation[starts & (sigmas_of(table) > 0.3)].max()


def observed_order(name, *settings):
    """How many times twice the steps halve the error."""
    return np.log2(largest_error(name, 80, *settings) / largest_error(name, 160, *settings))


# LMS and PNDM are of fourth order once they are under way; their first steps leave an error of second.
ORDERS = {name: sampler.order for name, sampler in SAMPLERS.items() if not sampler.stochastic}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_converges_to_the_exact_solution_at_its_order(name, order):
    # Karras levels reach down to a timestep that steps move, and rounding makes steps uneven.
    np.testing.assert_allclose(observed_order(name, 1.0), order, atol=0.12)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_converges_from_any_strength_with_exact_steps(name, order):
    np.testing.assert_allclose(observed_order(name, 0.63, True), order, atol=0.12)


@pytest.mark.parametrize("name", ["ddim", "pndm_diffusers"])
def test_exact_steps_meet_where_strides_do_not(name):
    """Trailing timesteps are not 1000 // steps apart, and diffusers' DDIM and PNDM pretend that they are."""
    parity, exact = (largest_error(name, 320, 1.0, exact_steps, "trailing") for exact_steps in (False, True))
    assert exact < parity / 2


@pytest.mark.parametrize("name", ["lms_diffusers", "lms_diffusers_karras", "pndm_diffusers"])
def test_parity_below_strength_1_costs_an_order(name):
    """As their docstrings say, for image to image in diffusers' way."""
    np.testing.assert_allclose(observed_order(name, 0.63), 1, atol=0.15)


def test_integrals_of_polynomials_are_exact():
    nodes = [0.7, 1.1, 2.3, 4.0]
    for power in range(4):
        exact = (0.2 ** (power + 1) - 0.7 ** (power + 1)) / (power + 1)
        assert integrate(nodes, 0.7, 0.2) @ np.power(nodes, power) == pytest.approx(exact, rel=1e-12)
    assert integrate(nodes[:2], 0.7, 0.2, log=True) @ np.log(nodes[:2]) == pytest.approx(
        (0.2 * np.log(0.2) - 0.2) - (0.7 * np.log(0.7) - 0.7), rel=1e-12
    )


def distributions(table, mean, spread):
    """Mean and standard deviation of the latents before every call and after the last, with an ideal denoiser.

    Of Gaussian latents only these change, and with them what the registers hold: each by the table's own rows.
    """
    means = np.zeros(1 + REGISTERS)
    covariance = np.zeros((1 + REGISTERS, 1 + REGISTERS))
    means[0] = table.signal * mean
    covariance[0, 0] = (table.signal * spread) ** 2 + table.sigma**2
    found = [(means[0], np.sqrt(covariance[0, 0]))]
    for scale, matrix, sigma in zip(table.input_scales, table.matrices, sigmas_of(table), strict=True):
        gain = sigma / (spread**2 + sigma**2)  # eps = gain * (exploding latents - mean)
        step = matrix[:, : 1 + REGISTERS].copy()
        step[:, 0] += matrix @ OUTPUT * gain * scale * np.hypot(1, sigma)
        means = step @ means - matrix @ OUTPUT * gain * mean
        covariance = step @ covariance @ step.T + np.outer(matrix @ NOISE, matrix @ NOISE)
        found.append((means[0], np.sqrt(max(covariance[0, 0], 0.0))))
    return np.array(found)


STOCHASTIC_ORDERS = {
    name: 1 if name in ("euler_a", "ddpm") else 2
    for name, sampler in SAMPLERS.items()
    if sampler.stochastic and name != "lcm"  # which wants a model that is distilled, not an ideal denoiser
}


@pytest.mark.parametrize(("name", "order"), STOCHASTIC_ORDERS.items())
@pytest.mark.parametrize(("strength", "exact_steps"), [(1.0, False), (0.63, True)])
def test_with_noise_variances_converge_to_the_datas(name, order, strength, exact_steps):
    """Relative to the exact variance at every level above 0.3, for the reasons that `largest_error` gives."""
    errors = []
    for steps in (80, 160):
        table = build(name, CONFIG, steps, strength, exact_steps)
        means, spreads = distributions(table, MEAN, SPREAD)[:-1].T
        sigmas = sigmas_of(table)
        variances = (spreads * table.input_scales * np.hypot(1, sigmas)) ** 2
        starts = (np.diff(table.steps, prepend=-1) > 0) & (sigmas > 0.3)
        errors.append(np.abs(variances / (SPREAD**2 + sigmas**2) - 1)[starts].max())
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.1)


def test_ddpm_and_euler_a_are_one_in_two_views():
    """At the same levels, from their own papers: the posterior's mean and variance, and the ancestral step of eta 1."""
    exploding, kept = (build(name, CONFIG, 20, 0.6) for name in ("euler_a", "ddpm"))
    np.testing.assert_array_equal(exploding.timesteps, kept.timesteps)
    levels = np.append(kept.signal, kept.after[:, 0])  # latents are this times the exploding ones
    seen = exploding.matrices[:, 0] * levels[1:, None]
    seen[:, LATENTS == 1] /= levels[:-1, None]
    np.testing.assert_allclose(kept.matrices[:, 0], seen, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_are_at_the_level_that_the_table_says(name):
    """With one picture as all data, latents are alpha times it and noise of sigma, exactly, after every call."""
    picture = 0.7
    for settings in [(12, 1.0)] + [(7, 0.37, True, spacing) for spacing in SPACINGS]:
        table = build(name, CONFIG, *settings)
        alpha, sigma = table.after.T.copy()
        np.testing.assert_allclose([alpha[-1], sigma[-1]], [1, 0])
        assert np.all(np.diff(sigma) <= 0) or name == "dpm2_a"  # which goes halfway to below
        if name in ENDS_AT_LEAST:
            alpha[-1], sigma[-1] = 1 / np.hypot(1, LEAST), LEAST / np.hypot(1, LEAST)
        latents = distributions(table, picture, 0.0)[1:]
        # Roots of rounded variances; and LCM keeps c_skip of the latents, 1e-5 at these timesteps
        tolerance = 1e-4 if name == "lcm" else 1e-6
        np.testing.assert_allclose(latents, np.stack([alpha * picture, sigma], axis=1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SAMPLERS)
def test_tables_are_finite_and_well_formed(name):
    """Also where steps have no length: 1000 steps from timestep 1000, which is the level of 999."""
    sampler = SAMPLERS[name]
    most = 50 if name == "lcm" or "karras" in name else 1000
    for steps, exact_steps in ((1, False), (2, True), (3, False), (most, False)):
        table = build(name, CONFIG, steps, 1.0, exact_steps)
        assert table.matrices.shape == (table.calls, 1 + REGISTERS, INPUTS)
        extra = {1: 0, 2: steps - 1}[sampler.calls_per_step] + (name == "pndm" and steps > 1)
        assert table.calls == steps + extra <= MAX_CALLS
        for field in dataclasses.fields(table):
            value = getattr(table, field.name)
            assert np.isfinite(value).all()
            assert not isinstance(value, np.ndarray) or len(value) == table.calls


@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_belong_to_steps_in_order(name):
    sampler = SAMPLERS[name]
    for strength, exact_steps, run in ((1.0, False, 20), (0.6, False, 12), (0.05, True, 20), (0.05, False, 1)):
        table = build(name, CONFIG, 20, strength, exact_steps)
        assert table.steps_run == run
        if name == "pndm":
            expected = [0] + [max(call - 1, 0) for call in range(1, table.calls)]
            assert table.calls == run + (run > 1)
        else:
            expected = [call // sampler.calls_per_step for call in range(table.calls)]
        assert table.steps.tolist() == expected
        assert table.steps[-1] == run - 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_drawn_wherever_it_has_weight_and_only_by_stochastic_samplers(name):
    table = build(name, CONFIG, 20, 0.8)
    weighty = (table.matrices @ NOISE != 0).any(axis=1)
    assert weighty.any() == table.draws.any() == SAMPLERS[name].stochastic
    assert not (weighty & ~table.draws).any()
    assert not weighty[-1]  # the result has no fresh noise in it


@pytest.mark.parametrize("name", SAMPLERS)
def test_starts_where_its_first_call_expects(name):
    """The model sees unit variance when image and noise have it, and the true noise gives the image back."""
    for prediction_type in ("epsilon", "v_prediction"):
        table = build(name, ScheduleConfig(prediction_type=prediction_type), 20, 0.6)
        assert table.input_scales[0] * np.hypot(table.signal, table.sigma) == pytest.approx(1, rel=1e-12)
        image, noise = 0.7, -1.3
        latents = table.signal * image + table.sigma * noise
        v = table.input_scales[0] * (table.signal * noise - table.sigma * image)
        output = {"epsilon": noise, "v_prediction": v}[prediction_type]
        assert table.denoised[0] @ (latents * LATENTS + output * OUTPUT) == pytest.approx(image, rel=1e-12)


def test_the_compiled_loop_does_what_the_tables_say():
    """All samplers as one batch in float32, against their matrices in float64, with a model that isn't linear."""
    tables = [build(name, CONFIG, 12, 0.8) for name in SAMPLERS]
    rows, calls = stack(tables), max(table.calls for table in tables)
    random = np.random.default_rng(0)
    image, start, pattern = random.standard_normal((3, 4, 4, 4))
    noises = random.standard_normal((calls, 4, 4, 4))
    batch = len(tables)

    def model(module, latents, timestep):
        return 1.3 * module.tanh(0.8 * latents + pattern * module.cos(timestep / 300))

    @jax.jit
    def run(state):
        def denoise(latents, timesteps):
            return model(jnp, latents, timesteps[:, None, None, None])

        drawn = jnp.asarray(noises, jnp.float32)
        return sample(denoise, state, rows, 0, calls, lambda i: drawn[i])

    ours = run(begin(rows, jnp.tile(image, (batch, 1, 1, 1)), jnp.tile(start, (batch, 1, 1, 1))))
    for i, table in enumerate(tables):
        state = np.zeros((1 + REGISTERS, 4, 4, 4))
        state[0] = table.signal * image + table.sigma * start
        for call in range(table.calls):
            output = model(np, table.input_scales[call] * state[0], table.timesteps[call])
            inputs = np.concatenate([state, output[None], noises[call][None]])
            state = np.tensordot(table.matrices[call], inputs, axes=1)
        # float32 all the way down from latents of 10 or so
        np.testing.assert_allclose(ours.latents[i], state[0], rtol=0, atol=1e-5 * np.abs(state[0]).max())


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_steps_at_full_strength_is_the_full_run(name):
    plain, exact = build(name, CONFIG, 20, 1.0), build(name, CONFIG, 20, 1.0, exact_steps=True)
    # some round Karras levels' timesteps as diffusers does, but not where strength is continuous
    np.testing.assert_allclose(exact.timesteps, plain.timesteps, rtol=0, atol=0.5 if "karras" in name else 0)
    # and DPM2 then finds other timesteps halfway, but not other levels
    np.testing.assert_allclose(exact.matrices, plain.matrices, rtol=1e-12, atol=1e-12)
    assert (exact.signal, exact.sigma, exact.steps_run) == (plain.signal, plain.sigma, plain.steps_run)


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_steps_has_no_dead_zones(name):
    tables = [build(name, CONFIG, 4, strength / 100, exact_steps=True) for strength in range(1, 101)]
    shares = np.arctan([table.sigma / table.signal for table in tables])  # of noise, from 0 to pi / 2
    assert {table.steps_run for table in tables} == {4}
    assert np.all(np.diff(shares) > 0)
    assert np.diff(shares).max() < 0.06  # the four strengths of the default are about 0.3 apart


def test_exact_steps_tells_close_strengths_apart():
    def sigma(strength, exact_steps):
        return build("euler", CONFIG, 30, strength, exact_steps).sigma

    assert sigma(0.834, False) == sigma(0.843, False)
    assert sigma(0.843, True) > 1.02 * sigma(0.834, True)
    assert sigma(0.02, True) > 0.1  # and by default 0.02 is refused


def test_spacing_is_the_models_unless_asked_for():
    def timesteps(name, **settings):
        return build(name, CONFIG, 4, 1.0, **settings).timesteps.tolist()

    assert timesteps("euler") == timesteps("euler", timestep_spacing="leading") == [751, 501, 251, 1]
    assert timesteps("euler", timestep_spacing="trailing") == [999, 749, 499, 249]
    assert timesteps("euler", timestep_spacing="linspace") == [999, 666, 333, 0]
    for spacing in SPACINGS:  # these two have their own
        assert timesteps("dpmpp_2s", timestep_spacing=spacing) == [999, 749, 500, 250]
        assert timesteps("lcm", timestep_spacing=spacing) == [999, 759, 499, 259]
    with pytest.raises(ConfigError, match="timestep_spacing must be one of leading, trailing, linspace, got 'even'"):
        build("euler", CONFIG, 4, 1.0, timestep_spacing="even")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("euler", "euler"),
        ("Euler a", "euler_a"),
        ("EULER-ANCESTRAL", "euler_a"),
        ("EulerAncestralDiscreteScheduler", "euler_a"),
        ("DPM Multi", "dpmpp_2m"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("dpmpp-2m-karras", "dpmpp_2m_karras"),
        ("DPM Multi Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde"),
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde_karras"),
        ("DPM Single", "dpmpp_2s"),
        ("DPM2", "dpm2"),
        ("dpm_2", "dpm2"),
        ("DPM2 Karras", "dpm2_karras"),
        ("DPM2 a", "dpm2_a"),
        ("DPM2 a Karras", "dpm2_a_karras"),
        ("dpm_2_ancestral", "dpm2_a"),
        ("Heun", "heun"),
        ("DDIM", "ddim"),
        ("DDPM", "ddpm"),
        ("LMS", "lms"),
        ("LMS Karras", "lms_karras"),
        ("PNDM", "pndm"),
        ("PLMS", "pndm"),
        ("UniPC", "unipc"),
        ("uni_pc", "unipc"),
        ("UniPCMultistepScheduler", "unipc"),
        ("DEIS", "deis"),
        ("LCM", "lcm"),
        (" Lcm ", "lcm"),
    ],
)
def test_samplers_go_by_many_names(name, key):
    assert canonical(name) == key


def test_every_name_in_the_registry_finds_its_sampler():
    for key, sampler in SAMPLERS.items():
        for name in (key, *sampler.names):
            assert canonical(name) == canonical(name.upper()) == key
    np.testing.assert_array_equal(
        build("DPM Multi", CONFIG, 9, 0.5).matrices, build("dpmpp_2m", CONFIG, 9, 0.5).matrices
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("eular", ": did you mean euler or euler_a or euler_karras?"),
        ("Euler a Karras", ": did you mean euler_a or euler_karras or heun_karras?"),  # diffusers has none
        ("DPM++ 2S a", ": did you mean dpmpp_2s or dpmpp_2m or dpmpp_2m_sde?"),  # A1111's is ancestral
        ("", ""),
        ("x", ""),
    ],
)
def test_unknown_sampler_is_named_with_the_known_and_the_near_ones(name, hint):
    with pytest.raises(ValueError, match="scheduler must be one of") as error:
        build(name, CONFIG, 30, 0.6)
    assert str(error.value) == f"scheduler must be one of {', '.join(SAMPLERS)}, got {name!r}{hint}"


def test_every_sampler_says_what_it_is():
    assert all(sampler.description and "\n" not in sampler.description for sampler in SAMPLERS.values())
    assert len({sampler.description for sampler in SAMPLERS.values()}) == len(SAMPLERS)
