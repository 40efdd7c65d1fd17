"""How a layer is computed on each kind of device: the one place where that is decided.

| layer           | CPU, float32                    | TPU             | GPU             | else    |
|-----------------|---------------------------------|-----------------|-----------------|---------|
| wide 3x3 convs  | Winograd, weights transformed   | plain           | plain           | plain   |
| long attention  | in bounded pieces               | flash attention | cuDNN (16 bits) | bounded |
| GEGLU           | one product                     | two products    | one             | one     |
| before norms    | -                               | `settled`       | -               | -       |

The convolution follows from its weights: `winograd_weights` is called once, where weights are placed
(`models.lay_out`), and what was not laid out is computed plainly. Attention is chosen when a
program is lowered for its platform, so one trace serves a CPU, a TPU and a topology without devices.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# F(2x2, 3x3) of Lavin & Gray (1509.09308), Section 4.1: outputs, weights and inputs of one dimension.
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
_WEIGHT = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WINOGRAD_CHANNELS = 256  # in and out, at least: below, its sums cost more than the products they spare
TILES = 2**26  # transformed pixels held at a time, at most
SCORES = 2**26  # attention scores held at a time, at most: a quarter of a gigabyte in float32
FLASH_TOKENS = 512  # queries at least: below, the scores are too small to matter
FLASH_FEATURES = (64, 128, 256, 512)  # of a head
FLASH_DTYPES = (jnp.bfloat16, jnp.float32)  # a TPU has no float16

Queries = Float[Array, "batch queries heads features"]
Keys = Float[Array, "batch keys heads features"]
_plain_only = contextvars.ContextVar("plain_only", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Trace attention as its definition says, wherever it will run: what the others are held against."""
    token = _plain_only.set(True)
    try:
        yield
    finally:
        _plain_only.reset(token)


def suits_winograd(platform: str | None, kernel_shape: tuple[int, ...], strides, padding, dtype) -> bool:
    """Whether such a convolution is computed faster from transformed weights, at every size of image."""
    *size, in_channels, out_channels = kernel_shape
    return (
        platform == "cpu"
        and dtype == jnp.float32
        and tuple(size) == (3, 3)
        and strides in (1, (1, 1))
        and padding == 1
        and min(in_channels, out_channels) >= WINOGRAD_CHANNELS
    )


@jax.jit
def winograd_weights(kernel: Float[Array, "3 3 channels out"]) -> list[Float[Array, "channels out"]]:
    """The sixteen matrices that `winograd` multiplies tiles of pixels by; 16/9 of the kernel's size.

    Apart, not stacked: XLA:CPU copies a slice before it multiplies by it.
    """
    transform = np.kron(_WEIGHT, _WEIGHT).astype(kernel.dtype)
    return list(jnp.tensordot(transform, kernel.reshape(9, *kernel.shape[2:]), 1))


def winograd(
    x: Float[Array, "batch height width channels"], weights: Sequence[Float[Array, "channels out"]]
) -> Float[Array, "batch height width out"]:
    """A 3x3 convolution with one zero of padding, in 16 products for each 2x2 of pixels where the definition has 36.

    Its rounding error is about twice that of the definition.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    pieces = _pieces(rows, 16 * batch * rows * columns * max(weights[0].shape), TILES)
    if pieces == 1:
        whole = _winograd_tiles(x, weights)
    else:
        band = 2 * rows // pieces
        bands = jax.lax.map(
            lambda top: _winograd_tiles(jax.lax.dynamic_slice_in_dim(x, top, band + 2, axis=1), weights),
            band * jnp.arange(pieces),
        )
        whole = jnp.moveaxis(bands, 0, 1).reshape(batch, 2 * rows, 2 * columns, -1)
    return whole[:, :height, :width]


def _winograd_tiles(
    x: Float[Array, "batch height width channels"], weights: Sequence[Float[Array, "channels out"]]
) -> Float[Array, "batch inner_height inner_width out"]:
    """The same for pixels of even height and width with a border of one, which the result leaves out."""
    batch, height, width, channels = x.shape
    rows, columns = height // 2 - 1, width // 2 - 1
    strips = [x[:, i : i + 2 * rows - 1 : 2] for i in range(4)]
    tiles = []
    for strip in (_combine(row, strips) for row in _INPUT):
        pixels = [strip[:, :, j : j + 2 * columns - 1 : 2] for j in range(4)]
        tiles += [_combine(row, pixels).reshape(-1, channels) for row in _INPUT]
    products = [(tile @ weight).reshape(batch, rows, columns, -1) for tile, weight in zip(tiles, weights, strict=True)]
    half = [[_combine(row, products[j::4]) for j in range(4)] for row in _OUTPUT]
    quarters = [jnp.stack([_combine(row, strip) for row in _OUTPUT], axis=3) for strip in half]
    return jnp.stack(quarters, axis=2).reshape(batch, 2 * rows, 2 * columns, -1)


def _pieces(length: int, size: int, bound: int) -> int:
    """Into how many equal parts to cut an axis, so that what is `size` large in all stays within the bound."""
    pieces = 1
    while size // pieces > bound and length % (2 * pieces) == 0:
        pieces *= 2
    return pieces


def _combine(signs: Sequence[int], terms: Sequence[Array]) -> Array:
    """The sum of terms times 1, 0 or -1, one of them at least 1."""
    first, *rest = sorted(((sign, term) for sign, term in zip(signs, terms, strict=True) if sign), key=lambda s: -s[0])
    total = first[1]
    for sign, term in rest:
        total = total + term if sign > 0 else total - term
    return total


def attention(
    query: Float[Array, "batch queries channels"],
    key: Float[Array, "batch keys channels"],
    value: Float[Array, "batch keys channels"],
    *,
    num_heads: int,
    is_causal: bool = False,
) -> Float[Array, "batch queries channels"]:
    """Scaled dot-product attention over `num_heads` equal slices of the channels."""
    split = [x.reshape(*x.shape[:-1], num_heads, -1) for x in (query, key, value)]
    if is_causal or _plain_only.get():
        mixed = jax.nn.dot_product_attention(*split, is_causal=is_causal)
    elif chosen := _attention_kernels(*split):
        mixed = jax.lax.platform_dependent(*split, **chosen, default=bounded_attention)
    else:
        mixed = bounded_attention(*split)
    return mixed.reshape(query.shape)


def _attention_kernels(query: Queries, key: Keys, value: Keys) -> dict:
    """By platform, the kernels that take arrays of such shapes."""
    kernels = {}
    _, queries, heads, features = query.shape
    whole = queries % 128 == heads * features % 128 == 0 and features in FLASH_FEATURES
    if whole and queries >= FLASH_TOKENS and query.dtype in FLASH_DTYPES:
        kernels["tpu"] = flash_attention
    # cuDNN's kernel can be traced only where there is one.
    if query.dtype.itemsize == 2 and features <= 128 and any(d.platform == "gpu" for d in jax.local_devices()):
        kernels["cuda"] = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return kernels


def bounded_attention(query: Queries, key: Keys, value: Keys) -> Queries:
    """The definition, for as many queries at a time as keep the scores below `SCORES`."""
    batch, queries, heads, features = query.shape
    pieces = _pieces(queries, batch * heads * queries * key.shape[1], SCORES)
    if pieces == 1:
        return jax.nn.dot_product_attention(query, key, value)
    chunks = jnp.moveaxis(query.reshape(batch, pieces, -1, heads, features), 1, 0)
    mixed = jax.lax.map(lambda chunk: jax.nn.dot_product_attention(chunk, key, value), chunks)
    return jnp.moveaxis(mixed, 0, 1).reshape(query.shape)


def flash_attention(query: Queries, key: Keys, value: Keys) -> Queries:
    """Attention that never holds all scores, by the kernel for TPUs in `flash`."""
    from ssd1b_jax import flash  # a third of a second, for TPUs alone

    flat = [x.reshape(*x.shape[:2], -1) for x in (query, key, value)]
    return flash.attention(*flat, features=query.shape[3]).reshape(query.shape)


def geglu(
    x: Float[Array, "*lead features"], kernel: Float[Array, "features twice"], bias: Float[Array, " twice"]
) -> Float[Array, "*lead half"]:
    """The first half of a projection's channels times the gelu of the others (Shazeer, 2002.05202)."""
    return jax.lax.platform_dependent(x, kernel, bias, tpu=_geglu_of_halves, default=_geglu_of_whole)


def _geglu_of_whole(x: Array, kernel: Array, bias: Array) -> Array:
    values, gates = jnp.split((x.reshape(-1, x.shape[-1]) @ kernel + bias).reshape(*x.shape[:-1], -1), 2, axis=-1)
    return values * jax.nn.gelu(gates, approximate=False)


def _geglu_of_halves(x: Array, kernel: Array, bias: Array) -> Array:
    """By two products, the second of which XLA:TPU fuses all else into; XLA:CPU would copy each half first."""
    flat, half = x.reshape(-1, x.shape[-1]), bias.size // 2
    values = flat @ kernel[:, :half] + bias[:half]
    gates = flat @ kernel[:, half:] + bias[half:]
    return (values * jax.nn.gelu(gates, approximate=False)).reshape(*x.shape[:-1], half)


def settled(x: Array) -> Array:
    """`x`, on TPUs computed and laid out before what follows is.

    XLA:TPU splits images of a small batch to convolve them. Left to itself it keeps them split through the norms
    behind, in float32 and with masks, which moves three times as much.
    """
    return jax.lax.platform_dependent(x, tpu=jax.lax.optimization_barrier, default=lambda x: x)
