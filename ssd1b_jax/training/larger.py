"""A VAE of twice the pixels for latents that a denoiser already knows: that one draws larger pictures unchanged.

The new VAE begins as the old one between two layers more: its decoder repeats each pixel, its encoder learns to give
the old latents. Then both learn on pictures of the larger size.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig, VAEConfig
from ssd1b_jax.models.layers import sinusoidal_embedding
from ssd1b_jax.models.vae import VAE
from ssd1b_jax.training import autoencoder, pictures, shipped
from ssd1b_jax.training.artwork import Sprites
from ssd1b_jax.training.loop import Recipe, train

RECIPE = Recipe(steps=3000, batch_size=8, learning_rate=3e-3, adam_learning_rate=2e-3, cooldown=0.5, ema_decay=0.99)
LATENTS_WEIGHT = 2.0  # of the latents' error beside that of pixels
MOST_NOISE = 0.25  # in latents that are decoded, as a share of their deviation: a denoiser's are not exact
WORLD_SHARE = 0.75  # of pictures that the denoiser draws; the rest is anything


def larger(config: VAEConfig) -> VAEConfig:
    """The config of the VAE with a level more, as wide as the finest of today's."""
    return dataclasses.replace(config, block_out_channels=(config.block_out_channels[0], *config.block_out_channels))


def begin(config: VAEConfig, params, seed: int):
    """Parameters of the larger VAE: those of the old one, and a level that repeats pixels."""
    begun = nnx.to_pure_dict(nnx.state(VAE(larger(config), rngs=nnx.Rngs(seed))))
    old, new = params["encoder"], begun["encoder"]
    last = len(config.block_out_channels)
    kept = {index + 1: block for index, block in old["down_blocks"].items()}
    new |= {name: old[name] for name in ("mid_block", "conv_norm_out", "conv_out")}
    new["down_blocks"] = new["down_blocks"] | kept
    old, new = params["decoder"], begun["decoder"]
    new |= {name: old[name] for name in ("conv_in", "mid_block", "conv_norm_out", "conv_out")}
    finest = new["up_blocks"][last]
    for resnet in finest["resnets"].values():  # each begins as its shortcut
        resnet["conv2"] = jax.tree.map(jnp.zeros_like, resnet["conv2"])
    repeat = new["up_blocks"][last - 1]["upsampler"]
    kernel = repeat["conv"]["kernel"]
    repeat["conv"]["kernel"] = jnp.zeros_like(kernel).at[1, 1].set(jnp.eye(kernel.shape[-1]))
    blocks = {index: new["up_blocks"][index] | block for index, block in old["up_blocks"].items()}
    new["up_blocks"] = new["up_blocks"] | blocks
    return begun | {name: params[name] for name in ("quant_conv", "post_quant_conv")}


def picture(rng: np.random.Generator, sprites: Sprites, width: int) -> pictures.Pixels:
    if rng.random() < WORLD_SHARE:
        return pictures.draw(sprites, shipped.sample(rng), width)
    return autoencoder.picture(rng, sprites, width)


def train_larger(config: ModelConfig, params, sprites: Sprites, folder: Path, recipe: Recipe = RECIPE):
    """Train the larger VAE for the latents of `params`, the model's own; returns its averaged parameters."""
    width = 2 * config.defaults.width
    old = nnx.graphdef(nnx.eval_shape(lambda: VAE(config.vae, rngs=nnx.Rngs(0))))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: VAE(larger(config.vae), rngs=nnx.Rngs(0))))
    deviation = 1 / config.vae.scaling_factor

    def loss(trained, key, pixels):
        image = pixels.astype(jnp.float32) / 127.5 - 1
        batch, height, _, channels = image.shape
        half = image.reshape(batch, height // 2, 2, height // 2, 2, channels).mean((2, 4))
        wanted = nnx.merge(old, params).encode(half).mean
        vae = nnx.merge(graphdef, trained)
        encoded = vae.encode(image).mean
        apart = jnp.square((encoded - wanted) / deviation).mean()
        level, noise, which = jax.random.split(key, 3)
        scale = deviation * MOST_NOISE * jax.random.uniform(level, (batch, 1, 1, 1))
        own = jax.random.bernoulli(which, 0.5, (batch, 1, 1, 1))
        latents = jnp.where(own, encoded, wanted + scale * jax.random.normal(noise, wanted.shape))
        decoded = vae.decode(latents)
        fitted = autoencoder.free_beyond(decoded, image)
        edges = zip(autoencoder.edges(fitted), autoencoder.edges(image), strict=True)
        edge = sum(jnp.abs(a - b).mean() for a, b in edges)
        errors = jnp.square((jnp.clip(decoded, -1, 1) - image) / 2).mean((1, 2, 3))
        psnr = -10 * jnp.log10(errors + 1e-8)
        total = jnp.abs(fitted - image).mean() + jnp.square(fitted - image).mean() + edge + LATENTS_WEIGHT * apart
        shares = own.reshape(-1)
        mean = lambda kept: (psnr * kept).sum() / jnp.maximum(kept.sum(), 1)
        return total, dict(own=mean(shares), psnr=mean(~shares), latents=apart)

    def batch(rng: np.random.Generator) -> dict:
        return dict(pixels=np.stack([picture(rng, sprites, width) for _ in range(recipe.batch_size)]))

    return train(folder, recipe, begin(config.vae, params, recipe.seed), loss, batch)


def enlarged(config: ModelConfig, params, vae_params):
    """Config and parameters of the model with the larger VAE, whose UNet no longer hears of sizes.

    It has seen one size alone, whose part in the conditioning is a constant: the bias takes it in.
    """
    width, height = config.defaults.width, config.defaults.height
    ids = sinusoidal_embedding(jnp.array([height, width, 0, 0, height, width], jnp.float32), config.unet.added_time_embed_dim)
    linear = params["unet"]["add_embedding"]["linear_1"]
    pooled = config.unet.pooled_dim
    heard = dict(
        kernel=linear["kernel"].at[pooled:].set(0), bias=linear["bias"] + ids.reshape(-1) @ linear["kernel"][pooled:]
    )
    unet = params["unet"] | {"add_embedding": params["unet"]["add_embedding"] | {"linear_1": heard}}
    defaults = dataclasses.replace(config.defaults, width=2 * width, height=2 * height)
    config = dataclasses.replace(config, vae=larger(config.vae), defaults=defaults)
    return config, params | dict(unet=unet, vae=vae_params)
