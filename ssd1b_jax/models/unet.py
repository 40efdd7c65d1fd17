"""The denoiser: SDXL's UNet (Podell et al., 2307.01952) with the depths of SSD-1B, Vega or SDXL.

It takes noisy latents, a timestep and the prompt's conditioning, and predicts the noise. The
module tree keeps the names of diffusers' UNet2DConditionModel, which the checkpoints use.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ssd1b_jax import kernels
from ssd1b_jax.config import UNetConfig
from ssd1b_jax.models.layers import (
    Attention,
    Conv,
    Downsample,
    GroupNorm,
    KeyValue,
    LayerNorm,
    Linear,
    MLPEmbedding,
    ResnetBlock,
    Upsample,
    sinusoidal_embedding,
)
from ssd1b_jax.models.tracing import repeated

Latents = Float[Array, "batch height width channels"]
Hidden = Float[Array, "batch tokens channels"]
Context = Float[Array, "batch context_tokens context_channels"]
TimeEmbedding = Float[Array, "batch features"]
KeyValues = list[list[KeyValue]]  # of each transformer of a level, of each of its blocks


class Conditioning(NamedTuple):
    """The part of the UNet that depends on prompt and sizes alone. It runs once for a picture, not at every step."""

    added: TimeEmbedding
    down: list[KeyValues]
    mid: KeyValues
    up: list[KeyValues]


class FeedForward(nnx.Module):
    """GEGLU (Shazeer, 2002.05202): one projection gives values and gates; 4 times wider inside."""

    def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
        self.proj_in = Linear(channels, 8 * channels, dtype=dtype, rngs=rngs)
        self.proj_out = Linear(4 * channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Hidden) -> Hidden:
        return self.proj_out(kernels.geglu(x, self.proj_in.kernel[...], self.proj_in.bias[...]))


class TransformerBlock(nnx.Module):
    """Self-attention, cross-attention to the prompt, feed-forward; each behind a LayerNorm."""

    def __init__(self, channels: int, context_dim: int, num_heads: int, *, dtype, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.attn1 = Attention(channels, channels, num_heads, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.attn2 = Attention(channels, context_dim, num_heads, dtype=dtype, rngs=rngs)
        self.norm3 = LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.ff = FeedForward(channels, dtype=dtype, rngs=rngs)

    @repeated
    def __call__(self, x: Hidden, prompt: KeyValue) -> Hidden:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), prompt)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """`depth` transformer blocks over the pixels as tokens, around a shortcut."""

    def __init__(self, channels: int, depth: int, num_heads: int, config: UNetConfig, *, dtype, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, config.norm_num_groups, epsilon=1e-6, dtype=dtype)
        self.proj_in = Linear(channels, channels, dtype=dtype, rngs=rngs)
        self.transformer_blocks = nnx.List(
            TransformerBlock(channels, config.cross_attention_dim, num_heads, dtype=dtype, rngs=rngs)
            for _ in range(depth)
        )
        self.proj_out = Linear(channels, channels, dtype=dtype, rngs=rngs)

    def project(self, context: Context) -> list[KeyValue]:
        """The prompt's keys and values for each block."""
        return [block.attn2.project(context) for block in self.transformer_blocks]

    def __call__(self, x: Latents, prompt: list[KeyValue]) -> Latents:
        batch, height, width, channels = x.shape
        tokens = self.proj_in(self.norm(x).reshape(batch, height * width, channels))
        for block, over in zip(self.transformer_blocks, prompt, strict=True):
            tokens = block(tokens, over)
        return x + self.proj_out(tokens).reshape(x.shape)


class Level(nnx.Module):
    """One level of the UNet: resnets, each with a transformer behind it where its depth is not 0."""

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int,
        depths: tuple[int, ...],
        num_heads: int,
        config: UNetConfig,
        *,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            ResnetBlock(
                channels,
                out_channels,
                groups=config.norm_num_groups,
                epsilon=1e-5,
                time_embed_dim=config.time_embed_dim,
                dtype=dtype,
                rngs=rngs,
            )
            for channels in in_channels
        )
        self.depths = depths
        self.attentions = nnx.List(
            SpatialTransformer(out_channels, depth, num_heads, config, dtype=dtype, rngs=rngs)
            for depth in depths
            if depth
        )

    def project(self, context: Context) -> KeyValues:
        """The prompt's keys and values for each transformer."""
        return [attention.project(context) for attention in self.attentions]

    def layers(self, time_embedding: TimeEmbedding, prompt: KeyValues):
        """The functions to apply in turn: a resnet, with the transformer behind it if there is one."""
        transformers = zip(self.attentions, prompt, strict=True)
        for resnet, depth in zip(self.resnets, self.depths, strict=True):
            transformer, over = next(transformers) if depth else (None, None)

            def layer(x, resnet=resnet, transformer=transformer, over=over):
                x = resnet(x, time_embedding)
                return x if transformer is None else transformer(x, over)

            yield layer


class DownBlock(Level):
    """A level on the way down. Returns its result and the skip connections."""

    def __init__(self, level: int, config: UNetConfig, *, dtype, rngs: nnx.Rngs):
        channels = config.block_out_channels[level]
        before = config.block_out_channels[max(level - 1, 0)]
        depths = config.down_depths[level]
        in_channels = (before,) + (channels,) * (len(depths) - 1)
        super().__init__(
            in_channels, channels, depths, config.num_attention_heads[level], config, dtype=dtype, rngs=rngs
        )
        last = level == len(config.block_out_channels) - 1
        self.downsampler = None if last else Downsample(channels, padding=1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Latents, time_embedding: TimeEmbedding, prompt: KeyValues) -> tuple[Array, list[Array]]:
        skips = []
        for layer in self.layers(time_embedding, prompt):
            x = layer(x)
            skips.append(x)
        if self.downsampler is not None:
            x = self.downsampler(x)
            skips.append(x)
        return x, skips


class MidBlock(Level):
    """The lowest level: one resnet (SSD-1B), or resnet, transformer, resnet (SDXL)."""

    def __init__(self, config: UNetConfig, *, dtype, rngs: nnx.Rngs):
        channels = config.block_out_channels[-1]
        depths = (config.mid_depth, 0) if config.mid_depth else (0,)
        super().__init__(
            (channels,) * len(depths), channels, depths, config.num_attention_heads[-1], config, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Latents, time_embedding: TimeEmbedding, prompt: KeyValues) -> Latents:
        for layer in self.layers(time_embedding, prompt):
            x = layer(x)
        return x


class UpBlock(Level):
    """A level on the way up; each resnet takes one array from `skips`, last in first out.

    The result is enlarged to the size of the next skip, which at odd sizes is a pixel less than twice its own.
    """

    def __init__(self, level: int, config: UNetConfig, *, dtype, rngs: nnx.Rngs):
        widths = config.block_out_channels
        channels, below, above = widths[level], widths[min(level + 1, len(widths) - 1)], widths[max(level - 1, 0)]
        depths = config.up_depths[len(widths) - 1 - level]
        arriving = (below,) + (channels,) * (len(depths) - 1)
        skipped = (channels,) * (len(depths) - 1) + (above,)
        in_channels = tuple(a + s for a, s in zip(arriving, skipped, strict=True))
        super().__init__(
            in_channels, channels, depths, config.num_attention_heads[level], config, dtype=dtype, rngs=rngs
        )
        self.upsampler = Upsample(channels, dtype=dtype, rngs=rngs) if level else None

    def __call__(self, x: Latents, skips: list[Array], time_embedding: TimeEmbedding, prompt: KeyValues) -> Array:
        for layer in self.layers(time_embedding, prompt):
            x = layer(jnp.concatenate([x, skips.pop()], axis=-1))
        if self.upsampler is None:
            return x
        return self.upsampler(x, skips[-1].shape[1:3] if skips else None)  # the skip that it meets above


class UNet(nnx.Module):
    def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        widths = config.block_out_channels
        self.config = config
        self.conv_in = Conv(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.time_embedding = MLPEmbedding(widths[0], config.time_embed_dim, dtype=dtype, rngs=rngs)
        self.add_embedding = MLPEmbedding(config.added_cond_dim, config.time_embed_dim, dtype=dtype, rngs=rngs)
        levels = range(len(widths))
        self.down_blocks = nnx.List(DownBlock(level, config, dtype=dtype, rngs=rngs) for level in levels)
        self.mid_block = MidBlock(config, dtype=dtype, rngs=rngs)
        self.up_blocks = nnx.List(UpBlock(level, config, dtype=dtype, rngs=rngs) for level in reversed(levels))
        self.conv_norm_out = GroupNorm(widths[0], config.norm_num_groups, dtype=dtype)
        self.conv_out = Conv(widths[0], config.out_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        latents: Latents,
        timesteps: Float[Array, " batch"] | Int[Array, " batch"],
        context: Context,
        pooled: Float[Array, "batch pooled_features"],
        time_ids: Float[Array, "batch 6"] | Int[Array, "batch 6"],
    ) -> Latents:
        """The noise in `latents`, in their shape and dtype.

        `timesteps` in [0, 1000), fractions allowed. `context` is the penultimate hidden states of
        both text encoders side by side, `pooled` the second one's projection. `time_ids` are the
        original height and width, the crop's top and left, the target height and width, in pixels.
        """
        return self.denoise(latents, timesteps, self.condition(context, pooled, time_ids))

    def condition(self, context: Context, pooled: Array, time_ids: Array) -> Conditioning:
        """The input of `denoise` that depends on prompt and sizes; see `__call__` for the arguments."""
        dtype = self.conv_in.dtype
        context = context.astype(dtype)
        sizes = sinusoidal_embedding(time_ids, self.config.added_time_embed_dim).reshape(len(time_ids), -1)
        added = jnp.concatenate([pooled.astype(jnp.float32), sizes], axis=-1)
        return Conditioning(
            self.add_embedding(added.astype(dtype)),
            [block.project(context) for block in self.down_blocks],
            self.mid_block.project(context),
            [block.project(context) for block in self.up_blocks],
        )

    def denoise(
        self,
        latents: Latents,
        timesteps: Float[Array, " batch"] | Int[Array, " batch"],
        conditioning: Conditioning,
    ) -> Latents:
        """The noise in `latents`, given the result of `condition`: the part that every step repeats."""
        time = sinusoidal_embedding(timesteps, self.config.block_out_channels[0])
        time_embedding = self.time_embedding(time.astype(self.conv_in.dtype)) + conditioning.added
        x = self.conv_in(latents)
        skips = [x]
        for block, prompt in zip(self.down_blocks, conditioning.down, strict=True):
            x, added = block(x, time_embedding, prompt)
            skips += added
        x = self.mid_block(x, time_embedding, conditioning.mid)
        for block, prompt in zip(self.up_blocks, conditioning.up, strict=True):
            x = block(x, skips, time_embedding, prompt)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x))).astype(latents.dtype)
