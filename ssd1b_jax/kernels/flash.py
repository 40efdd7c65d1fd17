"""Attention that never holds all scores (Dao et al., 2205.14135), as a kernel for TPUs.

Arrays stay (batch, tokens, channels), as the projections around them are. A kernel over (batch, heads,
tokens, features) would need them transposed, and 64 features padded to the 128 lanes of a register:
copies that move more than the attention itself. Here a step takes 128 lanes as they lie, two heads of
64: a head's scores are the product with the other head's lanes of the queries set to zero, which the
128 x 128 multiplier takes no longer for, since it would have to be filled up anyway.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

LANES = 128
SCORED = 1024  # bytes of a feature: 512 queries, and as many keys of those that are held, in 16 bits
HELD = 2**20  # bytes of keys: they, as many values, and the next ones of both share 16 MB with all else
_NEVER = -1e30  # a score that leaves no weight, and no NaN where all are such

Queries = Float[Array, "batch queries channels"]
Keys = Float[Array, "batch keys channels"]


@functools.partial(jax.jit, static_argnames="features")  # so that layers of one shape are traced once
def attention(query: Queries, key: Keys, value: Keys, *, features: int) -> Queries:
    """Attention with heads of so many `features`: 64, or a power of two times 128. Queries in multiples of 128."""
    return _attention(query, key, value, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query, key, value, features):
    batch, queries, channels = query.shape
    keys = key.shape[1]
    key, value = (jnp.pad(x, ((0, 0), (0, -keys % LANES), (0, 0))) for x in (key, value))
    lanes, size = max(LANES, features), query.dtype.itemsize
    most = HELD // (lanes * size)
    held = key.shape[1] if key.shape[1] <= most else math.gcd(key.shape[1], most)
    rows = math.gcd(queries, SCORED // size)
    grid = batch, channels // lanes, queries // rows, key.shape[1] // held
    some = pl.BlockSpec((1, rows, lanes), lambda image, tile, i, j: (image, i, tile))
    others = pl.BlockSpec((1, held, lanes), lambda image, tile, i, j: (image, j, tile))
    heads = lanes // features
    readings = 1 if grid[3] == 1 else grid[2]  # of every key and value
    return pl.pallas_call(
        functools.partial(_kernel, features=features, keys=keys),
        grid=grid,
        in_specs=[some, others, others],
        out_specs=some,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        scratch_shapes=[pltpu.VMEM((heads, rows, width), jnp.float32) for width in (1, 1, lanes)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
        cost_estimate=pl.CostEstimate(
            flops=4 * query.size * keys,
            transcendentals=query.size // features * keys,
            bytes_accessed=2 * size * (query.size + readings * key.size),
        ),
    )(query, key, value)


def _forward(query, key, value, features):
    return _attention(query, key, value, features), (query, key, value)


def _backward(features, inputs, gradient):
    """By the definition, a head at a time."""

    @jax.checkpoint
    def head(inputs):
        return jax.nn.dot_product_attention(*inputs)

    def definition(*inputs):
        split = [jnp.moveaxis(x.reshape(*x.shape[:2], -1, 1, features), 2, 0) for x in inputs]
        return jnp.moveaxis(jax.lax.map(head, split), 0, 2).reshape(inputs[0].shape)

    return jax.vjp(definition, *inputs)[1](gradient)


_attention.defvjp(_forward, _backward)


def _kernel(query, key, value, out, largest, total, mixed, *, features, keys):
    """Some queries over some keys, after those before: `largest` score, `total` weight and weighted values so far."""
    rows, lanes = query.shape[1:]
    held = key.shape[1]
    step = math.gcd(held, SCORED // query.dtype.itemsize)
    # 16-bit numbers are multiplied exactly as it is; asked for more, the compiler refuses.
    precision = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dot = functools.partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    head_of = jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, (rows, lanes), 1), features)
    heads = [jnp.where(head_of == head, query[0], jnp.zeros((), query.dtype)) for head in range(lanes // features)]

    @pl.when(pl.program_id(3) == 0)
    def _():
        largest[...] = jnp.full(largest.shape, _NEVER, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        mixed[...] = jnp.zeros(mixed.shape, jnp.float32)

    def score(i, sofar):
        here = pl.ds(i * step, step)
        number = pl.program_id(3) * held + i * step + jax.lax.broadcasted_iota(jnp.int32, (rows, step), 1)
        after = []
        for own, (top, weight, values) in zip(heads, sofar, strict=True):
            scores = features**-0.5 * dot(own, key[0, here], (((1,), (1,)), ((), ())))
            if keys % LANES:
                scores = jnp.where(number < keys, scores, _NEVER)
            new = jnp.maximum(top, scores.max(axis=1, keepdims=True))
            fade, weights = jnp.exp(top - new), jnp.exp(scores - new)
            weight = fade * weight + weights.sum(axis=1, keepdims=True)
            values = fade * values + dot(weights.astype(value.dtype), value[0, here], (((1,), (0,)), ((), ())))
            after.append((new, weight, values))
        return after

    sofar = [(largest[head], total[head], mixed[head]) for head in range(len(heads))]
    sofar = jax.lax.fori_loop(0, held // step, score, sofar)
    for head, state in enumerate(sofar):
        largest[head], total[head], mixed[head] = state

    @pl.when(pl.program_id(3) == pl.num_programs(3) - 1)
    def _():
        result = jnp.zeros((rows, lanes), jnp.float32)
        for head, (_, weight, values) in enumerate(sofar):
            result = jnp.where(head_of == head, values / weight, result)
        out[0] = result.astype(out.dtype)
