"""Two orders of the same sums, for different compilers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def geglu_of_whole(x: Array, kernel: Array, bias: Array) -> Array:
    """GEGLU by one product."""
    values, gates = jnp.split((x.reshape(-1, x.shape[-1]) @ kernel + bias).reshape(*x.shape[:-1], -1), 2, axis=-1)
    return values * jax.nn.gelu(gates, approximate=False)


def geglu_of_halves(x: Array, kernel: Array, bias: Array) -> Array:
    """GEGLU by two products. XLA:TPU fuses the rest into the second; XLA:CPU would copy each half first."""
    flat, half = x.reshape(-1, x.shape[-1]), bias.size // 2
    values = flat @ kernel[:, :half] + bias[:half]
    gates = flat @ kernel[:, half:] + bias[half:]
    return (values * jax.nn.gelu(gates, approximate=False)).reshape(*x.shape[:-1], half)
