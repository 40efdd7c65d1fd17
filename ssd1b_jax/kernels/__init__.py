"""How a layer is computed on each kind of device: the one place where that is decided.

| layer                     | CPU, float32         | TPU                     | GPU             | else    |
|---------------------------|----------------------|-------------------------|-----------------|---------|
| wide 3x3 convolution      | Winograd             | plain                   | plain           | plain   |
| 3x3 of a doubled image    | Winograd of doubles  | plain                   | plain           | plain   |
| attention                 | as caches hold       | flash, where it is long | cuDNN (16 bits) | bounded |
| GEGLU                     | one product          | two products            | one             | one     |
| before a group norm       | -                    | `barrier`               | -               | -       |

A convolution's algorithm is chosen once, when weights are placed: it needs them prepacked (`models.params`).
Attention is chosen when a program is lowered for its platform. So one trace serves a CPU, a TPU and a
topology without devices.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssd1b_jax.kernels import fusions, winograd
from ssd1b_jax.kernels.attentions import Keys, Queries, bounded, cached, defined
from ssd1b_jax.kernels.winograd import Winograd

WINOGRAD_CHANNELS = 256  # in and out, at least: below, its sums cost more than the products they spare
LARGE_CHANNELS = 512  # fewer, or weights four times the kernel's size are much of the memory, for images that are small
FLASH_TOKENS = 512  # queries at least: below, the scores are too small to matter
FLASH_FEATURES = (64, 128, 256, 512)  # of a head
FLASH_DTYPES = (jnp.bfloat16, jnp.float32)  # a TPU has no float16
_plain_only = contextvars.ContextVar("plain_only", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Trace attention as its definition says, wherever it will run: the reference for the others."""
    token = _plain_only.set(True)
    try:
        yield
    finally:
        _plain_only.reset(token)


def is_plain() -> bool:
    """Whether the caller is inside `plain`. A trace that is kept for many uses must ask."""
    return _plain_only.get()


def convolution(
    platform: str | None, kernel_shape: tuple[int, ...], strides, padding, dtype, doubled: bool = False
) -> Winograd | None:
    """The algorithm that beats the definition of such a convolution at every image size, or None.

    `doubled`: each pixel of the image is first repeated to 2 x 2.
    """
    *size, in_channels, out_channels = kernel_shape
    suits = (
        platform == "cpu" and dtype == jnp.float32 and tuple(size) == (3, 3) and strides in (1, (1, 1)) and padding == 1
    )
    if not suits:
        return None
    if doubled:
        return winograd.DOUBLED
    narrow = min(in_channels, out_channels)
    if narrow < WINOGRAD_CHANNELS:
        return None
    return winograd.LARGE if narrow < LARGE_CHANNELS else winograd.SMALL


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
    if is_causal or is_plain():
        mixed = defined(*split, is_causal=is_causal)
    else:
        mixed = jax.lax.platform_dependent(*split, **_attention_kernels(*split), default=bounded)
    return mixed.reshape(query.shape)


def _attention_kernels(query: Queries, key: Keys, value: Keys) -> dict:
    """The kernels that take arrays of such shapes, by platform."""
    kernels = {"cpu": cached}
    _, queries, heads, features = query.shape
    whole = queries % 128 == heads * features % 128 == 0 and features in FLASH_FEATURES
    if whole and queries >= FLASH_TOKENS and query.dtype in FLASH_DTYPES:
        kernels["tpu"] = _flash
    # cuDNN's kernel can be traced only where there is one.
    if query.dtype.itemsize == 2 and features <= 128 and any(d.platform == "gpu" for d in jax.local_devices()):
        kernels["cuda"] = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return kernels


def _flash(query: Queries, key: Keys, value: Keys) -> Queries:
    from ssd1b_jax.kernels import flash

    flat = [x.reshape(*x.shape[:2], -1) for x in (query, key, value)]
    return flash.attention(*flat, features=query.shape[3]).reshape(query.shape)


def geglu(
    x: Float[Array, "*lead features"], kernel: Float[Array, "features twice"], bias: Float[Array, " twice"]
) -> Float[Array, "*lead half"]:
    """The first half of a projection's channels times the gelu of the others (Shazeer, 2002.05202)."""
    return jax.lax.platform_dependent(x, kernel, bias, tpu=fusions.geglu_of_halves, default=fusions.geglu_of_whole)


def barrier(x: Array) -> Array:
    """`x` itself. On TPUs it is computed and laid out before the operations that follow.

    XLA:TPU splits the images of a small batch to convolve them. Without this barrier it keeps them split
    through the norms that follow, in float32 and with masks, which moves three times as much.
    """
    return jax.lax.platform_dependent(x, tpu=jax.lax.optimization_barrier, default=lambda x: x)
