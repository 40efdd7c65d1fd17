"""The loop: slices, padding and neighbours change no bit, one program serves all, and guidance is diffusers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd1b_jax.config import ScheduleConfig
from ssd1b_jax.engine.loop import MAX_CALLS, begin, guide, pad, sample, stack
from ssd1b_jax.samplers import LATENTS, REGISTERS, SAMPLERS, build
from ssd1b_jax.samplers.schedule import trained_sigmas

CONFIG = ScheduleConfig()
SIZE = (4, 4, 4)
TRAINED = jnp.asarray(trained_sigmas(CONFIG), jnp.float32)


def normal(seed, batch):
    return jax.random.normal(jax.random.key(seed), (batch, *SIZE))


def noise(i):
    """Another noise for each call."""
    return jax.vmap(lambda call: jax.random.normal(jax.random.fold_in(jax.random.key(7), call), SIZE))(i)


def some_model(latents, timesteps):
    """Not linear in the latents, and different at every timestep."""
    return jnp.tanh(latents + jnp.cos(timesteps)[:, None, None, None]) * 1.5


@jax.jit
def run(state, rows, start, stop):
    return sample(some_model, state, rows, start, stop, noise)


@jax.jit
def run_ideal(state, rows, stop):
    """With the eps of a data set of one picture."""

    def ideal(latents, timesteps):
        sigma = jnp.interp(timesteps, jnp.arange(1000.0), TRAINED)[:, None, None, None]
        return (latents * jnp.sqrt(1 + sigma**2) - normal(5, 1)) / sigma

    return sample(ideal, state, rows, 0, stop, noise)


def started(tables, seed=0):
    rows = stack(tables)
    image, eps = (jnp.tile(normal(seed + i, 1), (len(tables), 1, 1, 1)) for i in (0, 1))
    return begin(rows, image, eps), rows


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", SAMPLERS)
def test_slices_give_the_bits_of_the_whole(name):
    state, rows = started([build(name, CONFIG, 10, 0.8)])
    whole = run(state, rows, 0, 12)
    for cut in (1, 3, 8):
        assert_same_bits(run(run(state, rows, 0, cut), rows, cut, 12), whole)
    assert np.isfinite(whole.latents).all()
    assert np.any(whole.latents != run(state, rows, 0, 3).latents)


def test_each_picture_counts_its_own_calls():
    """Slices that begin and end anywhere, in as many turns of the loop as the longest of them."""
    state, rows = started([build("heun", CONFIG, 10, 1.0), build("euler_a", CONFIG, 10, 1.0)])
    halfway = run(run(state, rows, 0, jnp.array([7, 0])), rows, jnp.array([7, 0]), jnp.array([7, 3]))
    whole = run(halfway, rows, jnp.array([7, 3]), jnp.array([19, 10]))
    np.testing.assert_array_equal(whole.latents, run(state, rows, 0, jnp.array([19, 10])).latents)
    turns = []

    def counted(latents, timesteps):
        turns.append(timesteps)
        return some_model(latents, timesteps)

    with jax.disable_jit():
        sample(counted, state, rows, jnp.array([7, 0]), jnp.array([9, 0]), noise)
    assert len(turns) == 2


def test_one_program_serves_every_sampler_length_and_slice():
    fresh = jax.jit(lambda *arguments: run.__wrapped__(*arguments))
    for exact_steps in (False, True):
        for name in SAMPLERS:
            for steps, strength in ((4, 1.0), (30, 0.5)):
                state, rows = started([build(name, CONFIG, steps, strength, exact_steps)])
                fresh(fresh(state, rows, 0, 2), rows, 2, 5)
    assert fresh._cache_size() == 1


def test_a_batch_mixes_samplers_and_lengths():
    """Each picture ends with the bits it has when its neighbours are all like itself, and then stays."""
    tables = [build(name, CONFIG, steps, 0.8) for steps, name in enumerate(SAMPLERS, start=4)]
    state, rows = started(tables)
    longest = max(table.calls for table in tables)
    mixed = run(state, rows, 0, longest)
    for i, table in enumerate(tables):
        alone = run(*started([table] * len(tables)), 0, table.calls)
        np.testing.assert_array_equal(mixed.latents[i], alone.latents[0])


def test_a_longer_table_than_the_loop_changes_nothing():
    state, rows = started([build("heun", CONFIG, 5, 1.0)])
    done = run(state, rows, 0, 9)
    later = run(done, rows, 9, 30)
    np.testing.assert_array_equal(later.latents, done.latents)
    np.testing.assert_array_equal(later.registers, done.registers)
    np.testing.assert_array_equal(later.denoised, done.latents)


def test_padded_rows_are_the_identity():
    table = build("dpmpp_2m", CONFIG, 5, 1.0)
    padded = pad(table, 8)
    assert padded.calls == 8 and padded.steps_run == 5
    np.testing.assert_array_equal(padded.matrices[:5], table.matrices)
    np.testing.assert_array_equal(padded.matrices[5:, :, : 1 + REGISTERS], np.tile(np.eye(1 + REGISTERS), (3, 1, 1)))
    assert not padded.matrices[5:, :, 1 + REGISTERS :].any()
    np.testing.assert_array_equal(padded.denoised[5:], np.tile(LATENTS, (3, 1)))


def test_the_longest_run_fits_and_a_longer_one_is_refused():
    table = build("heun", CONFIG, 1000, 1.0)
    assert stack([table]).weights.shape[1] == MAX_CALLS
    with pytest.raises(ValueError, match="at most 100 model calls, got 1999"):
        pad(table, 100)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_a_row_does_not_use_cannot_spoil_it(bad):
    """A finished picture ignores the model, and only the ancestral sampler looks at the noise."""
    state, rows = started([build("euler", CONFIG, 4, 1.0)])
    finite = run(state, rows, 0, 4)
    without_noise = sample(some_model, state, rows, 0, 4, lambda i: jnp.full((1, *SIZE), bad))
    np.testing.assert_allclose(without_noise.latents, finite.latents, rtol=1e-5, atol=1e-5)
    after = sample(lambda latents, timesteps: jnp.full((1, *SIZE), bad), finite, rows, 4, 9, noise)
    np.testing.assert_array_equal(after.latents, finite.latents)
    spoiled = sample(lambda latents, timesteps: jnp.full((1, *SIZE), bad), state, rows, 0, 4, noise)
    assert not np.isfinite(spoiled.latents).any()


@pytest.mark.parametrize("exact_steps", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_that_knows_the_picture_gives_it_back(name, exact_steps):
    """To 1e-2, that is where rounded timesteps name other noise levels than the table."""
    table = build(name, CONFIG, 12, 0.9, exact_steps)
    state, rows = started([table])
    done = run_ideal(state, rows, table.calls)
    assert np.abs(done.denoised - normal(5, 1)).max() < 1e-2
    if not name.startswith(("ddim", "deis", "lcm", "lms", "pndm")):  # whose last steps aren't the prediction alone
        np.testing.assert_array_equal(done.latents, done.denoised)


def test_begin_mixes_image_and_noise_as_the_table_says():
    tables = [build("euler", CONFIG, 20, 0.6), build("ddim", CONFIG, 20, 0.6)]
    image, eps = normal(0, 2), normal(1, 2)
    state = begin(stack(tables), image.astype(jnp.bfloat16), eps)
    assert {leaf.dtype for leaf in state} == {jnp.dtype("float32")}
    for i, table in enumerate(tables):
        expected = (
            table.signal * np.asarray(image.astype(jnp.bfloat16), np.float64)[i] + table.sigma * np.asarray(eps)[i]
        )
        np.testing.assert_allclose(state.latents[i], expected, rtol=1e-5, atol=1e-6)


def test_state_stays_float32_under_a_bfloat16_model():
    state, rows = started([build("heun", CONFIG, 4, 1.0)])
    done = sample(lambda latents, _: some_model(latents, _).astype(jnp.bfloat16), state, rows, 0, 7, noise)
    assert {leaf.dtype for leaf in done} == {jnp.dtype("float32")}


def test_guidance_without_rescale_is_plain_bit_for_bit():
    uncond, cond, scale = normal(0, 2), normal(1, 2), jnp.array([7.5, 1.5])
    plain = uncond + scale[:, None, None, None] * (cond - uncond)
    np.testing.assert_array_equal(guide(uncond, cond, scale, jnp.zeros(2)), plain)
    flat = jnp.zeros((2, *SIZE))  # no spread to divide by
    np.testing.assert_array_equal(guide(flat, flat, scale, jnp.zeros(2)), flat)


def test_guidance_rescale_is_that_of_diffusers():
    torch = pytest.importorskip("torch")
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import rescale_noise_cfg

    uncond, cond, scale = normal(0, 2), normal(1, 2), jnp.array([7.5, 1.5])
    plain = guide(uncond, cond, scale, jnp.zeros(2))
    for rescale in (0.3, 0.7, 1.0):
        ours = guide(uncond, cond, scale, jnp.full(2, rescale))
        theirs = rescale_noise_cfg(torch.tensor(np.asarray(plain)), torch.tensor(np.asarray(cond)), rescale)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)  # float32 spreads
    full = guide(uncond, cond, scale, jnp.ones(2))
    np.testing.assert_allclose(full.std(axis=(1, 2, 3)), cond.std(axis=(1, 2, 3)), rtol=1e-5)


def test_guidance_is_per_picture():
    uncond, cond = normal(0, 2), normal(1, 2)
    both = guide(uncond, cond, jnp.array([3.0, 9.0]), jnp.array([0.0, 0.7]))
    for i, (scale, rescale) in enumerate(((3.0, 0.0), (9.0, 0.7))):
        alone = guide(uncond[i : i + 1], cond[i : i + 1], jnp.array([scale]), jnp.array([rescale]))
        np.testing.assert_allclose(both[i], alone[0], rtol=1e-6, atol=1e-6)
