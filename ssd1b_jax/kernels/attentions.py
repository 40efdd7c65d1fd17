"""Scaled dot-product attention (Vaswani et al., 1706.03762), equation 1, in tiles that fit into memory or caches.

Arrays are (batch, tokens, heads, features); scores and their softmax are float32 whatever the dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssd1b_jax.kernels.tiling import tile_count, whole_tiles

SCORES = 2**26  # at most at a time: a quarter of a gigabyte
CACHED_SCORES = 2**22  # at most at a time, where they should stay in a processor's caches

Queries = Float[Array, "batch queries heads features"]
Keys = Float[Array, "batch keys heads features"]


def defined(query: Queries, key: Keys, value: Keys, *, is_causal: bool = False) -> Queries:
    """The definition. float16 is computed in float32: JAX asks for products that only GPUs have."""
    dtype = query.dtype
    if dtype == jnp.float16:
        query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    return jax.nn.dot_product_attention(query, key, value, is_causal=is_causal).astype(dtype)


def bounded(query: Queries, key: Keys, value: Keys) -> Queries:
    """The definition, over tiles of queries whose scores are at most `SCORES`."""
    batch, queries, heads, features = query.shape
    scores = batch * heads * queries * key.shape[1]
    if (padded := whole_tiles(queries, scores, SCORES)) > queries:
        return bounded(_padded(query, padded), key, value)[:, :queries]
    count = tile_count(queries, scores, SCORES)
    if count == 1:
        return defined(query, key, value)
    chunks = jnp.moveaxis(query.reshape(batch, count, -1, heads, features), 1, 0)
    mixed = jax.lax.map(lambda chunk: defined(chunk, key, value), chunks)
    return jnp.moveaxis(mixed, 0, 1).reshape(query.shape)


def cached(query: Queries, key: Keys, value: Keys) -> Queries:
    """Attention over tiles of heads, or of one head's queries, whose scores are at most `CACHED_SCORES`."""
    batch, queries, heads, features = query.shape
    total = batch * heads
    most = max(1, CACHED_SCORES // (queries * key.shape[1]))
    together = next(count for count in range(total, 0, -1) if total % count == 0 and count <= most)
    scores = together * queries * key.shape[1]
    if (padded := whole_tiles(queries, scores, CACHED_SCORES)) > queries:
        return cached(_padded(query, padded), key, value)[:, :queries]
    count = tile_count(queries, scores, CACHED_SCORES)

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


def _padded(query: Queries, queries: int) -> Float[Array, "batch more heads features"]:
    return jnp.pad(query, ((0, 0), (0, queries - query.shape[1]), (0, 0), (0, 0)))
