"""FlashAttention (Dao et al., 2205.14135) as a kernel for TPUs: the score matrix is never whole in memory.

Arrays stay (batch, tokens, channels), like those of the projections around. A kernel over (batch, heads,
tokens, features) would have to transpose them, and to pad 64 features to the 128 lanes of a register.
These copies move more than the attention itself. Here a step takes 128 lanes as they lie: two heads of
64. A head's scores are the product with the other head's query lanes set to zero. The 128 x 128
multiplier takes no longer for that, since padding would fill it as well.

Names are the paper's (Algorithm 1): `m` is the largest score of each query so far, `l` the sum of its
weights, `acc` the weighted sum of values, `block_q` and `block_k` the rows of a block.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

LANES = 128
SCORE_BYTES = 1024  # of one feature: scores are of 512 queries and 512 keys at a time in 16 bits
KEY_BYTES = 2**20  # of a block of keys; it, its values, and the next block of both share 16 MB with all else
_MASKED = -1e30  # a score without weight; finite, so that a row of such scores gives no NaN

Queries = Float[Array, "batch queries channels"]
Keys = Float[Array, "batch keys channels"]


@functools.partial(jax.jit, static_argnames="features")  # so that layers of one shape are traced once
def attention(query: Queries, key: Keys, value: Keys, *, features: int) -> Queries:
    """Attention with heads of `features`: 64, or a power of two times 128. Queries come in multiples of 128."""
    return _attention(query, key, value, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query, key, value, features):
    batch, queries, channels = query.shape
    keys = key.shape[1]
    key, value = (jnp.pad(x, ((0, 0), (0, -keys % LANES), (0, 0))) for x in (key, value))
    lanes, size = max(LANES, features), query.dtype.itemsize
    most = KEY_BYTES // (lanes * size)
    block_k = key.shape[1] if key.shape[1] <= most else math.gcd(key.shape[1], most)
    block_q = math.gcd(queries, SCORE_BYTES // size)
    grid = batch, channels // lanes, queries // block_q, key.shape[1] // block_k
    query_spec = pl.BlockSpec((1, block_q, lanes), lambda image, tile, i, j: (image, i, tile))
    key_spec = pl.BlockSpec((1, block_k, lanes), lambda image, tile, i, j: (image, j, tile))
    heads = lanes // features
    reads = 1 if grid[3] == 1 else grid[2]  # of every key and value
    return pl.pallas_call(
        functools.partial(_kernel, features=features, keys=keys),
        grid=grid,
        in_specs=[query_spec, key_spec, key_spec],
        out_specs=query_spec,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        scratch_shapes=[pltpu.VMEM((heads, block_q, width), jnp.float32) for width in (1, 1, lanes)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
        cost_estimate=pl.CostEstimate(
            flops=4 * query.size * keys,
            transcendentals=query.size // features * keys,
            bytes_accessed=2 * size * (query.size + reads * key.size),
        ),
    )(query, key, value)


def _forward(query, key, value, features):
    return _attention(query, key, value, features), (query, key, value)


def _backward(features, inputs, gradient):
    """The gradient of the definition, a head at a time."""

    @jax.checkpoint
    def head(inputs):
        return jax.nn.dot_product_attention(*inputs)

    def definition(*inputs):
        split = [jnp.moveaxis(x.reshape(*x.shape[:2], -1, 1, features), 2, 0) for x in inputs]
        return jnp.moveaxis(jax.lax.map(head, split), 0, 2).reshape(inputs[0].shape)

    return jax.vjp(definition, *inputs)[1](gradient)


_attention.defvjp(_forward, _backward)


def _kernel(query, key, value, out, m_ref, l_ref, acc_ref, *, features, keys):
    """One block of queries over one block of keys. `m`, `l` and `acc` carry over from the blocks before."""
    block_q, lanes = query.shape[1:]
    block_k = key.shape[1]
    step = math.gcd(block_k, SCORE_BYTES // query.dtype.itemsize)
    # 16-bit numbers are multiplied exactly as it is; asked for more, the compiler refuses.
    precision = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dot = functools.partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    head_of = jax.lax.div(jax.lax.broadcasted_iota(jnp.int32, (block_q, lanes), 1), features)
    zero = jnp.zeros((), query.dtype)
    queries = [jnp.where(head_of == head, query[0], zero) for head in range(lanes // features)]

    @pl.when(pl.program_id(3) == 0)
    def _():
        m_ref[...] = jnp.full(m_ref.shape, _MASKED, jnp.float32)
        l_ref[...] = jnp.zeros(l_ref.shape, jnp.float32)
        acc_ref[...] = jnp.zeros(acc_ref.shape, jnp.float32)

    def body(i, heads):
        here = pl.ds(i * step, step)
        column = jax.lax.broadcasted_iota(jnp.int32, (block_q, step), 1)
        number = pl.program_id(3) * block_k + i * step + column
        updated = []
        for q, (m, l, acc) in zip(queries, heads, strict=True):  # noqa: E741
            scores = features**-0.5 * dot(q, key[0, here], (((1,), (1,)), ((), ())))
            if keys % LANES:
                scores = jnp.where(number < keys, scores, _MASKED)
            m_next = jnp.maximum(m, scores.max(axis=1, keepdims=True))
            correction, p = jnp.exp(m - m_next), jnp.exp(scores - m_next)
            l_next = correction * l + p.sum(axis=1, keepdims=True)
            pv = dot(p.astype(value.dtype), value[0, here], (((1,), (0,)), ((), ())))
            updated.append((m_next, l_next, correction * acc + pv))
        return updated

    heads = [(m_ref[head], l_ref[head], acc_ref[head]) for head in range(len(queries))]
    heads = jax.lax.fori_loop(0, block_k // step, body, heads)
    for head, state in enumerate(heads):
        m_ref[head], l_ref[head], acc_ref[head] = state

    @pl.when(pl.program_id(3) == pl.num_programs(3) - 1)
    def _():
        result = jnp.zeros((block_q, lanes), jnp.float32)
        for head, (_, l, acc) in enumerate(heads):  # noqa: E741
            result = jnp.where(head_of == head, acc / l, result)
        out[0] = result.astype(out.dtype)
