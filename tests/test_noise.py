"""Noise: known answers first, then torch itself, then what each kind promises."""

import hashlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd1b_jax.engine import noise

SHAPE = (8, 6, 4)


def sha256(values):
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


# torch


@pytest.mark.parametrize(
    "seed, count, digest",  # of torch 2.13's torch.randn on a CPU
    [
        (0, 1024, "443a9fa4ffb0e2221dbc5b56bec0b8ccb4510a8a94a903e8321dfa3b2d99d55b"),
        (1, 15, "a6c109bc6bf336a633bf02641ec7acf7f2cb14e0c8cc5b5394f8f016aac9b92b"),
        (42, 50, "d957ec584037764059a89329bd4ac9e133d3a758200f54b0ef8399d879b4625d"),
        (2**32 - 1, 65536, "50fc171a2e2a930b7d993d7b13d59d745b211d40248531b1e0b0d041da39283d"),
    ],
)
def test_torch_digests(seed, count, digest):
    assert sha256(noise.TorchNoise(seed).randn(count)) == digest


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_torch_every_size_in_one_sequence(seed):
    torch = pytest.importorskip("torch")
    generator, ours = torch.Generator("cpu").manual_seed(seed), noise.TorchNoise(seed)
    for count in [*range(1, 301), 3, 1024, 5, 16384, 65536]:
        expected = torch.randn(count, generator=generator).numpy()
        assert ours.randn(count).tobytes() == expected.tobytes(), count


@pytest.mark.parametrize("side", [16, 64, 128])
def test_torch_source_is_what_diffusers_draws(side):
    torch = pytest.importorskip("torch")
    for seed in (0, 1, 1234567890, 2**32 + 5):
        generator, ours = torch.Generator("cpu").manual_seed(seed), noise.source("torch", seed)
        shape = (side, side, 4)
        for drawn in (ours.posterior(shape), ours.start(shape), ours.row(0, shape), ours.row(3, shape)):
            expected = torch.randn((1, 4, side, side), generator=generator)[0].permute(1, 2, 0)
            np.testing.assert_array_equal(drawn, expected.numpy())


def test_torch_reads_the_low_32_bits():
    np.testing.assert_array_equal(noise.TorchNoise(2**32 + 5).randn(64), noise.TorchNoise(5).randn(64))


def test_fused_multiply_add_rounds_once():
    """No neighbouring float32 is nearer to the exact x * y + z."""
    x, y, z = np.random.default_rng(0).standard_normal((3, 2000)).astype(np.float32)
    for a, b, c, got in zip(x, y, z, noise._fma(x, y, z), strict=True):
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        below, above = np.nextafter(got, np.float32([-np.inf, np.inf]))
        error, *others = (abs(Fraction(float(value)) - exact) for value in (got, below, above))
        assert error <= min(others)


# nv


@pytest.mark.parametrize(
    "counter, key, words",  # known answers published with Random123
    [
        ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox(counter, key, words):
    np.testing.assert_array_equal(noise._philox(np.array(counter, np.uint32)[:, None], key)[:, 0], words)


def test_nv_is_what_a_gpu_draws():
    published = [-0.92466259, -0.42534415, -2.6438457, 0.14518388]  # CUDA, seed 0, shape (3, 4), first row
    np.testing.assert_allclose(noise.NvNoise(0).randn(12)[:4], published, atol=1e-6)


def test_nv_digests():
    assert sha256(noise.NvNoise(0).randn(1024)) == "8cb53cd408f3a60c67fb442fa9487356217b28aeea6019b6aec2bfab8da7385c"
    last = noise.NvNoise(2**64 - 1).randn(1024)
    assert sha256(last) == "0041e1dc9047ee3301751ee0c0e31e3b7a5259afcf54a1ae85873be7da0854cd"


def test_nv_counts_draws_and_reads_64_bits():
    ours = noise.source("nv", 3)
    first, second = ours.posterior(SHAPE), ours.start(SHAPE)
    assert not np.array_equal(first, second)
    values = noise.NvNoise(3).randn(8 * 6 * 4)
    np.testing.assert_array_equal(first, values.reshape(4, 8, 6).transpose(1, 2, 0))
    assert not np.array_equal(first, noise.source("nv", 2**32 + 3).posterior(SHAPE))


def test_elementary_functions():
    """Within a few units in the last place of the library's."""
    x = np.random.default_rng(0).random(10_000)
    np.testing.assert_allclose(noise._log(x), np.log(x), rtol=1e-15)
    for ours, theirs in zip(noise._sincos(2 * np.pi * x), (np.sin(2 * np.pi * x), np.cos(2 * np.pi * x)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-15)


# jax


def test_jax_key_is_jaxs_own_below_32_bits():
    for seed in (0, 7, 2**32 - 1):
        np.testing.assert_array_equal(noise.key_data(seed), jax.random.key_data(jax.random.key(seed)))


def test_jax_reads_64_bits():
    drawn = [noise.source("jax", seed).start(SHAPE) for seed in (1, 2**32 + 1, 2**63 + 1)]
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[1], drawn[2])


def test_jax_draws_do_not_depend_on_their_order():
    ours, again = noise.source("jax", 5), noise.source("jax", 5)
    row, start, posterior = ours.row(0, SHAPE), ours.start(SHAPE), ours.posterior(SHAPE)
    np.testing.assert_array_equal(posterior, again.posterior(SHAPE))
    np.testing.assert_array_equal(start, again.start(SHAPE))
    np.testing.assert_array_equal(row, again.row(0, SHAPE))
    assert not np.array_equal(start, posterior) and not np.array_equal(start, row)


def test_jax_rows_are_drawn_inside_a_compiled_loop_of_a_batch():
    keys = np.stack([noise.key_data(seed) for seed in (5, 2**40)])

    @jax.jit
    def total(keys, start, stop):
        def body(row, latents):
            return latents + jax.vmap(lambda key: noise.row_noise(key, row, SHAPE))(keys)

        return jax.lax.fori_loop(start, stop, body, jnp.zeros((2, *SHAPE)))

    for picture, seed in enumerate((5, 2**40)):
        expected = sum(noise.source("jax", seed).row(row, SHAPE) for row in range(2, 5))
        # the same bits to start from; compiled otherwise, the normals differ by a rounding each
        np.testing.assert_allclose(total(keys, 2, 5)[picture], expected, atol=3e-6)


# every kind


@pytest.mark.parametrize("kind", noise.NOISES)
def test_shape_and_distribution(kind):
    drawn = np.asarray(noise.source(kind, 11).start((64, 48, 4)))
    assert drawn.shape == (64, 48, 4) and drawn.dtype == np.float32
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)  # four standard errors
    assert abs(drawn.var() - 1) < 4 * np.sqrt(2 / drawn.size)


@pytest.mark.parametrize("kind", noise.NOISES)
def test_seeds_at_the_ends(kind):
    noise.source(kind, 0).start(SHAPE)
    noise.source(kind, np.uint64(2**64 - 1)).start(SHAPE)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=rf"seed must be in \[0, 2\*\*64\), got {seed}"):
            noise.source(kind, seed)


def test_unknown_kind():
    with pytest.raises(ValueError, match="noise must be one of jax, torch, nv, got 'gpu'"):
        noise.source("gpu", 0)


def test_fractional_seed():
    with pytest.raises(TypeError):
        noise.check_seed(1.5)


def test_slerp_is_a1111s():
    """Their formula, on (channels, height, width) with norms over the height, in PyTorch's words."""
    first, second = np.random.default_rng(0).normal(size=(2, 12, 10, 4)).astype(np.float32)

    def there(fraction):
        low, high = first.transpose(2, 0, 1), second.transpose(2, 0, 1)
        unit = [x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (low, high)]
        omega = np.arccos((unit[0] * unit[1]).sum(axis=1))[:, None]
        mixed = np.sin((1 - fraction) * omega) / np.sin(omega) * low + np.sin(fraction * omega) / np.sin(omega) * high
        return mixed.transpose(1, 2, 0)

    for fraction in (0.1, 0.5, 0.99):
        np.testing.assert_allclose(noise.slerp(first, second, fraction), there(fraction), atol=1e-5)
    np.testing.assert_allclose(noise.slerp(first, second, 1.0), second, atol=1e-6)
    assert np.array_equal(noise.slerp(first, first, 0.3), first), "the same noise has no direction to turn to"
