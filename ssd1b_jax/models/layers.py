"""The layers of the networks, with PyTorch's constants in one place.

Flax's defaults differ from those the weights were trained with: here norms use two-pass
variances with epsilon 1e-5 or 1e-6, gelu is exact, and both kinds of stride-2 padding are
spelled out. Norms, softmax and embeddings of time are computed in float32 whatever the dtype.
Every module takes the `dtype` it computes in and keeps its parameters in.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ssd1b_jax import kernels
from ssd1b_jax.models.tracing import repeated

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def _keyless(initializer: Callable) -> Callable:
    """The initializer, which gives zeros without a key: `params` needs only shapes, and they come faster so."""

    def initial(key: jax.Array | None, shape: tuple[int, ...], dtype) -> Array:
        return jnp.zeros(shape, dtype) if key is None else initializer(key, shape, dtype)

    return initial


# Flax's defaults.
_kernel = _keyless(nnx.initializers.lecun_normal())
_embedding = _keyless(nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0))


class Linear(nnx.Linear):
    """A dense layer on (rows, features): flat, because XLA:CPU's gradient of a batched one is slow."""

    def __init__(self, in_features: int, out_features: int, *, use_bias: bool = True, dtype, rngs: nnx.Rngs):
        super().__init__(
            in_features,
            out_features,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=dtype,
            kernel_init=_kernel,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "*lead features"]) -> Float[Array, "*lead out"]:
        flat = super().__call__(x.reshape(-1, x.shape[-1]))
        return flat.reshape(*x.shape[:-1], self.out_features)


class Embedding(nnx.Embed):
    """A vector for each of `count` ids."""

    def __init__(self, count: int, features: int, *, dtype, rngs: nnx.Rngs):
        super().__init__(count, features, dtype=dtype, param_dtype=dtype, embedding_init=_embedding, rngs=rngs)


class Conv(nnx.Conv):
    """A square convolution. `padding` is the zeros on each side, or ((top, bottom), (left, right)).

    With `doubled`, each pixel of the image is first repeated to 2 x 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        strides=1,
        padding=None,
        doubled: bool = False,
        dtype,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            strides=strides,
            padding=kernel_size // 2 if padding is None else padding,
            dtype=dtype,
            param_dtype=dtype,
            kernel_init=_kernel,
            rngs=rngs,
        )
        self.doubled = doubled
        self.algorithm: kernels.Winograd | None = None

    def prepack(self, platform: str | None) -> None:
        """Replace the kernel, or its shape, by the matrices of the platform's algorithm, if it has one.

        See `params` for why and when.
        """
        kernel = self.kernel.get_value()
        self.algorithm = kernels.convolution(
            platform, kernel.shape, self.strides, self.padding, kernel.dtype, self.doubled
        )
        if self.algorithm is not None:
            pack = self.algorithm.pack
            shape = isinstance(kernel, jax.ShapeDtypeStruct)
            self.kernel = nnx.List(map(nnx.Param, jax.eval_shape(pack, kernel) if shape else pack(kernel)))

    def __call__(
        self, x: Float[Array, "batch height width channels"], cut: tuple[int, int] | None = None
    ) -> Float[Array, "batch out_h out_w out"]:
        """`cut` is the height and width that a doubled image is cut to before it is convolved."""
        if self.doubled and cut not in (None, (2 * x.shape[1], 2 * x.shape[2])):
            return self._doubled_and_cut(x, *cut)
        if self.algorithm is not None:
            return self.algorithm(x, [matrix[...] for matrix in self.kernel]) + self.bias[...]
        if self.kernel.shape[:2] == (1, 1) and self.strides in (1, (1, 1)):
            return (x.reshape(-1, x.shape[-1]) @ self.kernel[0, 0] + self.bias[...]).reshape(*x.shape[:-1], -1)
        if self.doubled:
            x = x.repeat(2, axis=1).repeat(2, axis=2)
        return super().__call__(x)

    def _doubled_and_cut(self, x: Float[Array, "batch height width channels"], height: int, width: int) -> Array:
        """By the definition: the zeros at the border lie inside the pixels that were cut off."""
        kernel = [matrix[...] for matrix in self.kernel] if self.algorithm is not None else self.kernel[...]
        kernel = self.algorithm.unpack(kernel) if self.algorithm is not None else kernel
        x = x.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, self.bias[...]))
        rest = ((1, 1), (1, 1))
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), rest, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


class GroupNorm(nnx.Module):
    """Group normalization (Wu & He, 1803.08494) by per-channel sums, without a 5-D array."""

    def __init__(self, channels: int, groups: int, *, epsilon: float = 1e-5, dtype):
        self.groups = groups
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(channels, dtype))
        self.bias = nnx.Param(jnp.zeros(channels, dtype))

    def __call__(self, x: Float[Array, "batch *space channels"]) -> Float[Array, "batch *space channels"]:
        dtype, space = x.dtype, tuple(range(1, x.ndim - 1))
        x = kernels.barrier(x).astype(jnp.float32)
        x = x - self._group_mean(x.mean(space, keepdims=True))
        variance = self._group_mean(jnp.square(x).mean(space, keepdims=True))
        x = x * (jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]) + self.bias[...]
        return x.astype(dtype)

    def _group_mean(self, channel_means: Float[Array, "batch *ones channels"]) -> Float[Array, "batch *ones channels"]:
        shape = channel_means.shape
        groups = channel_means.reshape(*shape[:-1], self.groups, -1)
        return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(shape)


class LayerNorm(nnx.LayerNorm):
    """Layer normalization over the last axis, in float32."""

    def __init__(self, features: int, *, dtype, rngs: nnx.Rngs):
        super().__init__(
            features, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, param_dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "*lead features"]) -> Float[Array, "*lead features"]:
        return super().__call__(x).astype(x.dtype)


class KeyValue(NamedTuple):
    """Projected keys and values. Those of the prompt are the same in every step of a picture."""

    key: Float[Array, "batch tokens channels"]
    value: Float[Array, "batch tokens channels"]


class Attention(nnx.Module):
    """Multi-head attention of `hidden` over a context that `project` projected, or over itself."""

    def __init__(
        self, channels: int, context_dim: int, num_heads: int, *, qkv_bias: bool = False, dtype, rngs: nnx.Rngs
    ):
        self.num_heads = num_heads
        self.to_q = Linear(channels, channels, use_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.to_k = Linear(context_dim, channels, use_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.to_v = Linear(context_dim, channels, use_bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.to_out = Linear(channels, channels, dtype=dtype, rngs=rngs)

    def project(self, context: Float[Array, "batch tokens context_channels"]) -> KeyValue:
        return KeyValue(self.to_k(context), self.to_v(context))

    def __call__(
        self, hidden: Float[Array, "batch tokens channels"], over: KeyValue | None = None
    ) -> Float[Array, "batch tokens channels"]:
        key, value = self.project(hidden) if over is None else over
        return self.to_out(kernels.attention(self.to_q(hidden), key, value, num_heads=self.num_heads))


class ResnetBlock(nnx.Module):
    """Twice GroupNorm, silu and convolution, around a shortcut. `time_embed_dim` None leaves time out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        epsilon: float,
        time_embed_dim: int | None = None,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.norm1 = GroupNorm(in_channels, groups, epsilon=epsilon, dtype=dtype)
        self.conv1 = Conv(in_channels, out_channels, 3, dtype=dtype, rngs=rngs)
        self.time_emb_proj = (
            None if time_embed_dim is None else Linear(time_embed_dim, out_channels, dtype=dtype, rngs=rngs)
        )
        self.norm2 = GroupNorm(out_channels, groups, epsilon=epsilon, dtype=dtype)
        self.conv2 = Conv(out_channels, out_channels, 3, dtype=dtype, rngs=rngs)
        self.conv_shortcut = (
            None if in_channels == out_channels else Conv(in_channels, out_channels, 1, dtype=dtype, rngs=rngs)
        )

    @repeated
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        time_embedding: Float[Array, "batch features"] | None = None,
    ) -> Float[Array, "batch height width out"]:
        hidden = self.conv1(jax.nn.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            hidden = hidden + self.time_emb_proj(jax.nn.silu(time_embedding))[:, None, None, :]
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nnx.Module):
    """Halves height and width. `padding` 1 is the UNet's, ((0, 1), (0, 1)) the VAE encoder's."""

    def __init__(self, channels: int, *, padding, dtype, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, 3, strides=2, padding=padding, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch half_h half_w channels"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, cuts them to `size` (height, width) if given, then convolves."""

    def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, 3, doubled=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch height width channels"], size: tuple[int, int] | None = None
    ) -> Float[Array, "batch new_height new_width channels"]:
        return self.conv(x, size)


class MLPEmbedding(nnx.Module):
    """Linear, silu, linear: what diffusers calls TimestepEmbedding."""

    def __init__(self, in_features: int, features: int, *, dtype, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_features, features, dtype=dtype, rngs=rngs)
        self.linear_2 = Linear(features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch in_features"]) -> Float[Array, "batch features"]:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


def sinusoidal_embedding(
    values: Float[Array, "*lead"] | Int[Array, "*lead"], features: int
) -> Float[Array, "*lead features"]:
    """Cosines, then sines, of `values` at frequencies 1 to 1/10000 (Ho et al., 2006.11239, cosines first)."""
    half = features // 2
    frequencies = np.exp(-math.log(10000) * np.arange(half) / half).astype(np.float32)
    angles = values.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
