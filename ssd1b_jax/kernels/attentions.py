"""Scaled dot-product attention (Vaswani et al., 1706.03762), equation 1, for one kind of device each.

Arrays are (batch, tokens, heads, features); scores and their softmax are float32 whatever the dtype.
"""

import contextlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssd1b_jax.kernels.pieces import pieces

SCORES = 2**26  # held at a time, at most: a quarter of a gigabyte
CACHED_SCORES = 2**22  # the same where they should stay in a processor's caches
FLASH_BLOCK = 512  # queries and keys that the TPU's kernel takes at a time

Queries = Float[Array, "batch queries heads features"]
Keys = Float[Array, "batch keys heads features"]


def bounded(query: Queries, key: Keys, value: Keys) -> Queries:
    """The definition, for as many queries at a time as keep the scores below `SCORES`."""
    batch, queries, heads, features = query.shape
    count = pieces(queries, batch * heads * queries * key.shape[1], SCORES)
    if count == 1:
        return jax.nn.dot_product_attention(query, key, value)
    chunks = jnp.moveaxis(query.reshape(batch, count, -1, heads, features), 1, 0)
    mixed = jax.lax.map(lambda chunk: jax.nn.dot_product_attention(chunk, key, value), chunks)
    return jnp.moveaxis(mixed, 0, 1).reshape(query.shape)


def cached(query: Queries, key: Keys, value: Keys) -> Queries:
    """For as many heads, or else queries of one head, at a time as keep the scores below `CACHED_SCORES`."""
    batch, queries, heads, features = query.shape
    total = batch * heads
    most = max(1, CACHED_SCORES // (queries * key.shape[1]))
    together = next(count for count in range(total, 0, -1) if total % count == 0 and count <= most)
    count = pieces(queries, together * queries * key.shape[1], CACHED_SCORES)

    def attend(query, key, value):
        scores = jnp.matmul(query, key.swapaxes(-1, -2), preferred_element_type=jnp.float32)
        largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
        shares = jnp.exp(features**-0.5 * (scores - largest))
        mixed = jnp.matmul(shares.astype(value.dtype), value, preferred_element_type=jnp.float32)
        return (mixed / shares.sum(axis=-1, keepdims=True)).astype(value.dtype)

    def some_heads(inputs):
        query, key, value = inputs
        if count == 1:
            return attend(query, key, value)
        chunks = query.reshape(count, 1, -1, features)  # of the one head
        return jax.lax.map(lambda chunk: attend(chunk, key, value), chunks).reshape(query.shape)

    split = [x.swapaxes(1, 2).reshape(total // together, together, -1, features) for x in (query, key, value)]
    mixed = some_heads([x[0] for x in split])[None] if together == total else jax.lax.map(some_heads, split)
    return mixed.reshape(batch, heads, queries, features).swapaxes(1, 2)


def flash(query: Queries, key: Keys, value: Keys) -> Queries:
    """Attention that never holds all scores (Dao et al., 2205.14135), by JAX's kernel for TPUs."""
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu  # a third of a second, for TPUs alone

    across, along = (_block(x.shape[1]) for x in (query, key))
    blocks = tpu.BlockSizes(
        block_q=across, block_k_major=along, block_k=along, block_b=1,
        block_q_major_dkv=across, block_k_major_dkv=along, block_k_dkv=along, block_q_dkv=across,
        block_k_major_dq=along, block_k_dq=along, block_q_dq=across,
    )  # fmt: skip
    inputs = [x.swapaxes(1, 2) for x in (query, key, value)]
    # The kernel's products of 16-bit numbers are exact as they are; asked for more it is refused.
    precise = contextlib.nullcontext() if query.dtype == jnp.float32 else jax.default_matmul_precision("default")
    with precise:
        mixed = tpu.flash_attention(*inputs, sm_scale=query.shape[-1] ** -0.5, block_sizes=blocks)
    return mixed.swapaxes(1, 2)


def _block(tokens: int) -> int:
    """The largest of the kernel's block sizes that divides so many tokens."""
    return next(size for size in (FLASH_BLOCK, 256, 128) if tokens % size == 0)
