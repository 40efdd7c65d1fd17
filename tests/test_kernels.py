"""Each way of computing a layer against its definition, and that the right one is chosen."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.compare import assert_close
from helpers.tiny import random_params, tiny_config

from ssd1b_jax import kernels, models
from ssd1b_jax.kernels import attentions as kinds
from ssd1b_jax.kernels import flash, fusions, winograd
from ssd1b_jax.models import params as models_params
from ssd1b_jax.models.layers import Conv, KeyValue

ROUNDING = 2e-6  # of the largest value: some units in the last place of float32, in sums of 100 or so


def draw(*shape):
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


def definition(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)


def doubled(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


ALGORITHMS = {
    "small": (winograd.SMALL, definition),
    "large": (winograd.LARGE, definition),
    "doubled": (winograd.DOUBLED, lambda x, kernel: definition(doubled(x), kernel)),
}
# LARGE sums numbers some times larger than its result is: its error is several times that of a direct convolution.
ERRORS = {"small": ROUNDING, "large": 5 * ROUNDING, "doubled": ROUNDING}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("height, width", [(8, 12), (7, 9), (1, 2)])
def test_winograd_is_a_convolution(name, height, width):
    algorithm, expected = ALGORITHMS[name]
    x, kernel = draw(2, height, width, 24), draw(3, 3, 24, 16)
    assert_close(algorithm(x, algorithm.pack(kernel)), expected(x, kernel), ERRORS[name])


@pytest.mark.parametrize("name, tile", [("small", 2), ("large", 4), ("doubled", 1)])
@pytest.mark.parametrize("tiles, count", [(8, 4), (7.5, 4), (6, 2), (1, 1)])
def test_winograd_in_bands(monkeypatch, name, tile, tiles, count):
    """As many as halving the rows of tiles allows; their seams don't show."""
    algorithm, expected = ALGORITHMS[name]
    tiles = tiles if tile > 1 else math.ceil(tiles)
    x, kernel = draw(2, int(tiles * tile), 5 * tile, 8), draw(3, 3, 8, 6)
    matrices = algorithm.pack(kernel)
    monkeypatch.setattr(winograd, "PIXELS", len(matrices) * 2 * 2 * 5 * 8)
    assert f"length={count}" in str(jax.make_jaxpr(algorithm)(x, matrices)) or count == 1
    assert_close(algorithm(x, matrices), expected(x, kernel), ERRORS[name])


@pytest.mark.parametrize("name", ["small", "doubled"])
def test_winograd_is_exact_where_numbers_are(name):
    """Small integers times four: no transform rounds, so nothing may differ."""
    algorithm, expected = ALGORITHMS[name]
    rng = np.random.default_rng(0)
    x, kernel = rng.integers(-8, 8, (1, 6, 6, 4)), 4 * rng.integers(-8, 8, (3, 3, 4, 4))
    x, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    np.testing.assert_array_equal(algorithm(x, algorithm.pack(kernel)), expected(x, kernel))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_winograd_has_the_gradients_of_a_convolution(name):
    algorithm, expected = ALGORITHMS[name]
    x, kernel = draw(1, 6, 8, 8), draw(3, 3, 8, 8)
    weight = draw(*expected(x, kernel).shape)
    ours = jax.jit(jax.grad(lambda x, k: (algorithm(x, algorithm.pack(k)) * weight).sum(), (0, 1)))
    theirs = jax.jit(jax.grad(lambda x, k: (expected(x, k) * weight).sum(), (0, 1)))
    for got, wanted in zip(ours(x, kernel), theirs(x, kernel), strict=True):
        assert_close(got, wanted, ERRORS[name])


def test_winograd_of_doubled_pixels_takes_no_more_memory_than_the_kernel():
    kernel = draw(3, 3, 8, 6)
    assert sum(matrix.size for matrix in winograd.DOUBLED.pack(kernel)) == kernel.size


WIDE, WIDER = (3, 3, 256, 320), (3, 3, 640, 1280)


@pytest.mark.parametrize(
    "expected, platform, shape, changes",
    [
        (winograd.LARGE, "cpu", WIDE, {}),
        (winograd.SMALL, "cpu", WIDER, {}),
        (winograd.DOUBLED, "cpu", WIDER, dict(doubled=True)),
        (winograd.DOUBLED, "cpu", (3, 3, 8, 8), dict(doubled=True)),
        (None, "cpu", WIDE, dict(strides=2)),
        (None, "cpu", WIDE, dict(padding=0)),
        (None, "cpu", WIDE, dict(dtype=jnp.bfloat16)),
        (None, "cpu", (3, 3, 256, 4), {}),
        (None, "cpu", (1, 1, 256, 320), {}),
        (None, "tpu", WIDE, {}),
        (None, "tpu", WIDE, dict(doubled=True)),
        (None, None, WIDE, {}),
    ],
    ids=str,
)
def test_what_winograd_is_for(expected, platform, shape, changes):
    assert kernels.convolution(platform, shape, **dict(strides=1, padding=1, dtype=jnp.float32) | changes) is expected


@pytest.mark.slow
def test_a_network_laid_out_for_a_cpu_computes_the_same(monkeypatch):
    """With every 3x3 convolution as Winograd, in the structure that `abstract` says."""
    monkeypatch.setattr(kernels, "WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr(kernels, "LARGE_CHANNELS", 24)  # some of each
    models_params._abstract.cache_clear()
    config = tiny_config()
    params = jax.tree.map(jnp.asarray, random_params(config)["unet"])
    arguments = draw(2, 8, 12, 4), draw(2) ** 2, draw(2, 5, 32), draw(2, 16), jnp.ones((2, 6))
    results = []
    for platform in (None, "cpu"):
        graphdef, shapes = models.abstract("unet", config, platform=platform)
        prepacked = models.prepack("unet", config, params, platform)
        assert jax.tree.map(jnp.shape, prepacked) == jax.tree.map(jnp.shape, shapes)
        results.append(jax.jit(lambda params, g=graphdef: nnx.merge(g, params)(*arguments))(prepacked))
    models_params._abstract.cache_clear()
    assert len(jax.tree.leaves(prepacked)) > len(jax.tree.leaves(params))
    assert_close(results[1], results[0], 5e-5)  # as whole networks agree with PyTorch's


@pytest.mark.parametrize("platform", [None, "tpu", "gpu"])
def test_other_platforms_take_weights_as_they_are(platform):
    config = tiny_config()
    params = random_params(config)["vae"]
    prepacked = models.prepack("vae", config, params, platform)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a is b, prepacked, params)))


@pytest.mark.parametrize("doubled", [False, True])
def test_a_convolution_keeps_its_bias_when_laid_out(doubled):
    conv = Conv(256, 256, 3, doubled=doubled, dtype=jnp.float32, rngs=nnx.Rngs(0))
    conv.bias[...] = draw(256)
    x = draw(1, 4, 4, 256)
    expected = conv(x)
    conv.prepack("cpu")
    assert isinstance(conv.kernel, nnx.List)
    assert_close(conv(x), expected, 5 * ROUNDING)


def test_a_convolution_of_single_pixels_is_a_product():
    conv = Conv(6, 5, 1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    conv.bias[...] = draw(5)
    x = draw(2, 3, 4, 6)
    expected = jnp.einsum("bhwi,io->bhwo", x, conv.kernel[0, 0]) + conv.bias[...]
    assert "conv_general_dilated" not in str(jax.make_jaxpr(conv)(x))
    assert_close(conv(x), expected, ROUNDING)


def attend(*inputs, num_heads=2):
    return kernels.attention(*inputs, num_heads=num_heads)


@pytest.mark.parametrize("queries, keys", [(16, 16), (16, 7), (12, 5)])
def test_attention_in_pieces_of_queries(monkeypatch, queries, keys):
    inputs = [draw(2, tokens, 2, 4) for tokens in (queries, keys, keys)]
    monkeypatch.setattr(kinds, "SCORES", 2 * 2 * keys * 4)  # four queries at a time
    assert "scan" in str(jax.make_jaxpr(kinds.bounded)(*inputs))
    assert_close(kinds.bounded(*inputs), jax.nn.dot_product_attention(*inputs), ROUNDING)


def test_attention_of_a_length_that_nothing_divides(monkeypatch):
    """It is padded where whole pieces would be far too large, and else left as it is."""
    odd, keys = 63, 5
    inputs = [draw(2, tokens, 2, 4) for tokens in (odd, keys, keys)]
    expected = jax.nn.dot_product_attention(*inputs)
    for kind, name, one in ((kinds.bounded, "SCORES", 4 * keys), (kinds.cached, "CACHED_SCORES", keys)):
        for bound, loops in ((one * 4, True), (one * odd, False)):
            monkeypatch.setattr(kinds, name, bound)
            traced = str(jax.make_jaxpr(lambda *inputs, kind=kind: kind(*inputs))(*inputs))
            assert ("f32[16,1,4," in traced or "f32[16,2,4," in traced) == loops
            assert_close(kind(*inputs), expected, ROUNDING)


@pytest.mark.parametrize("scores, loops", [(10**6, 0), (3 * 12 * 5, 1), (12 * 5, 1), (3 * 5, 2)])
def test_attention_in_pieces_of_heads(monkeypatch, scores, loops):
    """All at once, three heads at a time, one, and three queries of one."""
    inputs = [draw(2, tokens, 3, 4) for tokens in (12, 5, 5)]
    monkeypatch.setattr(kinds, "CACHED_SCORES", scores)
    said = str(
        jax.make_jaxpr(lambda *inputs: kinds.cached(*inputs))(*inputs)
    )  # a new function, or it is not traced anew
    assert said.count("scan[") == loops
    assert_close(kinds.cached(*inputs), jax.nn.dot_product_attention(*inputs), ROUNDING)


def test_cached_attention_of_16_bits_rounds_as_the_definition_does():
    inputs = [draw(2, tokens, 3, 16).astype(jnp.bfloat16) for tokens in (12, 40, 40)]
    got, exact = kinds.cached(*inputs), jax.nn.dot_product_attention(*[x.astype(jnp.float32) for x in inputs])
    assert got.dtype == jnp.bfloat16
    assert_close(got.astype(jnp.float32), exact, 2**-7)  # shares and the result rounded to 8 bits each


@pytest.mark.parametrize(
    "keys, heads, features, held",
    [(256, 2, 64, None), (77, 4, 64, None), (384, 1, 128, None), (384, 2, 64, 128), (300, 1, 256, 128)],
    ids=str,
)
def test_flash_attention(monkeypatch, keys, heads, features, held):
    """The kernel for TPUs, interpreted: heads side by side, keys that fill no block, and not all of them at once."""
    from jax.experimental.pallas import tpu as pltpu

    if held:
        monkeypatch.setattr(flash, "KEY_BYTES", held * max(features, 128) * 4)
    query, key, value = (draw(2, tokens, heads, features) for tokens in (128, keys, keys))
    with pltpu.force_tpu_interpret_mode(), jax.default_matmul_precision("highest"):
        got = jax.jit(kernels._flash)(query, key, value)
    assert_close(got, jax.nn.dot_product_attention(query, key, value), ROUNDING)


def test_flash_attention_has_the_gradients_of_attention():
    from jax.experimental.pallas import tpu as pltpu

    query, key, value, weight = (draw(2, tokens, 2, 64) for tokens in (128, 77, 77, 128))
    got, expected = (
        jax.jit(jax.grad(lambda *inputs, attend=attend: (attend(*inputs) * weight).sum(), (0, 1, 2)))
        for attend in (kernels._flash, jax.nn.dot_product_attention)
    )
    with pltpu.force_tpu_interpret_mode():
        got = got(query, key, value)
    for a, b in zip(got, expected(query, key, value), strict=True):
        assert_close(a, b, ROUNDING)


def test_geglu_of_halves_is_that_of_the_whole():
    x, kernel, bias = draw(2, 5, 24), draw(24, 32), draw(32)
    got = fusions.geglu_of_halves(x, kernel, bias)
    assert_close(got, fusions.geglu_of_whole(x, kernel, bias), ROUNDING)


@pytest.mark.parametrize("platform, products, barriers", [("tpu", 2, 1), ("cpu", 1, 0)])
def test_the_platform_chooses_what_is_fused(platform, products, barriers):
    def both(x, kernel, bias):
        return kernels.geglu(kernels.barrier(x), kernel, bias)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((8, 16), (16, 64), (64,))]
    text = jax.jit(both).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.dot_general") == products
    assert text.count("stablehlo.optimization_barrier") == barriers


def lowered(platform, *shapes, dtype=jnp.bfloat16):
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    with jax.default_matmul_precision("highest"):
        return jax.jit(attend).trace(*inputs).lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_chooses_the_attention():
    """When a program is lowered, so a machine without a TPU can compile for one."""
    tokens, prompt = (1, 1024, 128), (1, 77, 128)
    assert "tpu_custom_call" in lowered("tpu", tokens, tokens, tokens)
    assert "tpu_custom_call" in lowered("tpu", tokens, tokens, tokens, dtype=jnp.float32)
    assert "tpu_custom_call" not in lowered("cpu", tokens, tokens, tokens)
    assert "tpu_custom_call" in lowered("tpu", tokens, prompt, prompt)
    assert "tpu_custom_call" not in lowered("tpu", tokens, tokens, tokens, dtype=jnp.float16)
    few = (1, 256, 128)
    assert "tpu_custom_call" not in lowered("tpu", few, few, few)
    one_head = (1, 1024, 64)
    assert "tpu_custom_call" not in lowered("tpu", one_head, one_head, one_head)  # of 32 features


def test_attention_has_gradients_whatever_is_chosen():
    inputs = draw(1, 512, 128), draw(1, 512, 128), draw(1, 512, 128)

    def loss(query, key, value):
        return jnp.square(attend(query, key, value)).sum()

    got = jax.jit(jax.grad(loss, (0, 1, 2)))(*inputs)
    with kernels.plain():
        expected = jax.jit(jax.grad(loss, (0, 1, 2)))(*inputs)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, 10 * ROUNDING)  # sums over 512 keys, forth and back


def test_keys_and_values_are_made_once():
    """`denoise` with what `condition` made holds no product with the prompt, and gives the bits of the whole."""
    config = tiny_config()
    graphdef, _ = models.abstract("unet", config)
    params = jax.tree.map(jnp.asarray, random_params(config)["unet"])
    latents, timesteps, prompt = draw(2, 8, 8, 4), draw(2) ** 2, draw(2, 5, 32)
    pooled, time_ids = draw(2, 16), jnp.ones((2, 6))
    condition = jax.jit(lambda params: nnx.merge(graphdef, params).condition(prompt, pooled, time_ids))
    conditioning = condition(params)
    over = [leaf for leaf in jax.tree.leaves(conditioning, is_leaf=lambda x: isinstance(x, KeyValue))][1:]
    assert all(isinstance(pair, KeyValue) and pair.key.shape == pair.value.shape for pair in over)
    depth = sum(map(sum, (*config.unet.down_depths, *config.unet.up_depths)))
    assert len(over) == depth + config.unet.mid_depth
    denoise = jax.jit(lambda params, c: nnx.merge(graphdef, params).denoise(latents, timesteps, c))
    whole = jax.jit(lambda params: nnx.merge(graphdef, params)(latents, timesteps, prompt, pooled, time_ids))
    assert_close(denoise(params, conditioning), whole(params), ROUNDING)
    said = str(jax.make_jaxpr(denoise)(params, conditioning))
    assert "f32[2,5,32]" not in said and "f32[10,32]" not in said
