"""The autoencoder between pixels and latents: AutoencoderKL of SDXL (Rombach et al., 2112.10752)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssd1b_jax.config import VAEConfig
from ssd1b_jax.models.layers import Attention, Conv, Downsample, GroupNorm, ResnetBlock, Upsample

EPSILON = 1e-6

Image = Float[Array, "batch height width 3"]
Latents = Float[Array, "batch latent_height latent_width latent_channels"]
Features = Float[Array, "batch height width channels"]


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents, not yet multiplied by the VAE's `scaling_factor`."""

    mean: Latents
    log_variance: Latents

    def sample(self, noise: Latents) -> Latents:
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


def _resnet(in_channels: int, out_channels: int, config: VAEConfig, *, dtype, rngs: nnx.Rngs) -> ResnetBlock:
    return ResnetBlock(
        in_channels, out_channels, groups=config.norm_num_groups, epsilon=EPSILON, dtype=dtype, rngs=rngs
    )


def _resnets(in_channels: int, out_channels: int, count: int, config: VAEConfig, *, dtype, rngs):
    widths = [in_channels] + [out_channels] * (count - 1)
    return nnx.List(_resnet(width, out_channels, config, dtype=dtype, rngs=rngs) for width in widths)


class SpatialAttention(Attention):
    """One-head self-attention over pixels, around a shortcut."""

    def __init__(self, channels: int, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        super().__init__(channels, channels, 1, qkv_bias=True, dtype=dtype, rngs=rngs)
        self.group_norm = GroupNorm(channels, config.norm_num_groups, epsilon=EPSILON, dtype=dtype)

    def __call__(self, x: Features) -> Features:
        batch, height, width, channels = x.shape
        tokens = self.group_norm(x).reshape(batch, height * width, channels)
        return x + super().__call__(tokens).reshape(x.shape)


class MidBlock(nnx.Module):
    """Resnet, attention, resnet, at the lowest resolution."""

    def __init__(self, channels: int, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        self.resnets = _resnets(channels, channels, 2, config, dtype=dtype, rngs=rngs)
        self.attentions = nnx.List([SpatialAttention(channels, config, dtype=dtype, rngs=rngs)])

    def __call__(self, x: Features) -> Features:
        first, second = self.resnets
        return second(self.attentions[0](first(x)))


class DownBlock(nnx.Module):
    def __init__(self, in_channels: int, out_channels: int, last: bool, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        self.resnets = _resnets(in_channels, out_channels, config.layers_per_block, config, dtype=dtype, rngs=rngs)
        self.downsampler = None if last else Downsample(out_channels, padding=((0, 1), (0, 1)), dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Float[Array, "batch out_height out_width out_channels"]:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.downsampler is None else self.downsampler(x)


class UpBlock(nnx.Module):
    def __init__(self, in_channels: int, out_channels: int, last: bool, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        count = config.layers_per_block + 1
        self.resnets = _resnets(in_channels, out_channels, count, config, dtype=dtype, rngs=rngs)
        self.upsampler = None if last else Upsample(out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Features) -> Float[Array, "batch out_height out_width out_channels"]:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.upsampler is None else self.upsampler(x)


class Encoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        widths = config.block_out_channels
        last = len(widths) - 1
        self.conv_in = Conv(config.in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.down_blocks = nnx.List(
            DownBlock(widths[max(i - 1, 0)], width, i == last, config, dtype=dtype, rngs=rngs)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], config, dtype=dtype, rngs=rngs)
        self.conv_norm_out = GroupNorm(widths[-1], config.norm_num_groups, epsilon=EPSILON, dtype=dtype)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, image: Image) -> Float[Array, "batch latent_height latent_width moments"]:
        x = self.conv_in(image)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    def __init__(self, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        widths = config.block_out_channels[::-1]
        last = len(widths) - 1
        self.conv_in = Conv(config.latent_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        self.mid_block = MidBlock(widths[0], config, dtype=dtype, rngs=rngs)
        self.up_blocks = nnx.List(
            UpBlock(widths[max(i - 1, 0)], width, i == last, config, dtype=dtype, rngs=rngs)
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(widths[-1], config.norm_num_groups, epsilon=EPSILON, dtype=dtype)
        self.conv_out = Conv(widths[-1], config.in_channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, latents: Latents) -> Image:
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class VAE(nnx.Module):
    def __init__(self, config: VAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.quant_conv = Conv(2 * config.latent_channels, 2 * config.latent_channels, 1, dtype=dtype, rngs=rngs)
        self.post_quant_conv = Conv(config.latent_channels, config.latent_channels, 1, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)

    def encode(self, image: Image) -> Posterior:
        """The posterior of images in [-1, 1]; log-variances are clipped to [-30, 20] as in diffusers."""
        mean, log_variance = jnp.split(self.quant_conv(self.encoder(image)), 2, axis=-1)
        return Posterior(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, latents: Latents) -> Image:
        """The image of latents that have been divided by `scaling_factor`; about [-1, 1], not clipped."""
        return self.decoder(self.post_quant_conv(latents))
