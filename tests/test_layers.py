"""Layers apart from what they compute: how often they are traced, and what they begin with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssd1b_jax import kernels
from ssd1b_jax.models.layers import Conv, Embedding, Linear
from ssd1b_jax.models.tracing import repeated


class Scaled(nnx.Module):
    traced: list[int] = []  # widths, in order

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.arange(width, dtype=jnp.float32))

    @repeated
    def __call__(self, x):
        self.traced.append(x.shape[-1])
        return x * self.scale[...]


def test_blocks_that_repeat_are_traced_once():
    Scaled.traced.clear()
    twice, once = [Scaled(3), Scaled(3)], Scaled(5)
    twice[1].scale[...] = jnp.ones(3)
    x = jnp.full(3, 2.0)
    made = jax.jit(lambda x: (twice[0](x), twice[1](x), once(jnp.ones(5))))(x)
    np.testing.assert_array_equal(made[0], [0, 2, 4])
    np.testing.assert_array_equal(made[1], [2, 2, 2])
    np.testing.assert_array_equal(made[2], range(5))
    assert Scaled.traced == [3, 5]
    with kernels.plain():  # other kernels may be chosen
        once(jnp.ones(5))
    assert Scaled.traced == [3, 5, 5]


@pytest.mark.parametrize(
    "ours, flax, shape",
    [
        (Linear, nnx.Linear, (6, 4)),
        (Embedding, nnx.Embed, (6, 4)),
        (lambda *shape, **how: Conv(*shape, 3, **how), lambda *shape, **how: nnx.Conv(*shape, (3, 3), **how), (6, 4)),
    ],
    ids=["linear", "embedding", "convolution"],
)
def test_layers_begin_as_flaxs_do(ours, flax, shape):
    got = ours(*shape, dtype=jnp.float32, rngs=nnx.Rngs(3))
    expected = flax(*shape, rngs=nnx.Rngs(3))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(got), nnx.state(expected))
    assert any(leaf.any() for leaf in jax.tree.leaves(nnx.state(got)))
