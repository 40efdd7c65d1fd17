"""A VAE of twice the pixels for the latents that a denoiser knows, which then draws larger pictures unchanged.

Encoder and decoder get one level more. The decoder begins by repeating the old one's pixels, and learns to draw what
lies between them; the encoder learns to give the latents that the old one gives of the halved picture.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig, VAEConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.models.layers import sinusoidal_embedding
from ssd1b_jax.models.vae import VAE
from ssd1b_jax.training import autoencoder, pictures, shipped
from ssd1b_jax.training.artwork import Sprites
from ssd1b_jax.training.loop import Recipe, train

RECIPE = Recipe(steps=1500, batch_size=8, learning_rate=3e-3, adam_learning_rate=2e-3, cooldown=0.5, ema_decay=0.99)
LATENTS_WEIGHT = 2.0  # of the latents' error beside that of pixels
MOST_NOISE = 0.25  # in latents that are decoded, as a share of their deviation: a denoiser's are not exact
WORLD_SHARE = 0.75  # of pictures that the denoiser draws; the rest is anything


def larger(config: VAEConfig) -> VAEConfig:
    """The config of the VAE with a level more, as wide as the finest of today's."""
    return dataclasses.replace(config, block_out_channels=(config.block_out_channels[0], *config.block_out_channels))


def begin(config: VAEConfig, params, seed: int):
    """Parameters of the larger VAE: those of the old one, and a level whose part of the decoder repeats pixels."""
    begun = nnx.to_pure_dict(nnx.state(VAE(larger(config), rngs=nnx.Rngs(seed))))
    finest = len(config.block_out_channels)
    encoder, decoder = begun["encoder"], begun["decoder"]
    upsampler = decoder["up_blocks"][finest - 1]["upsampler"]
    kernel = upsampler["conv"]["kernel"]
    upsampler["conv"]["kernel"] = jnp.zeros_like(kernel).at[1, 1].set(jnp.eye(kernel.shape[-1]))
    for resnet in decoder["up_blocks"][finest]["resnets"].values():  # is its shortcut
        resnet["conv2"] = jax.tree.map(jnp.zeros_like, resnet["conv2"])
    for index, block in params["encoder"]["down_blocks"].items():
        encoder["down_blocks"][index + 1] = block
    for index, block in params["decoder"]["up_blocks"].items():
        decoder["up_blocks"][index] |= block
    ends = "mid_block", "conv_norm_out", "conv_out"
    encoder |= {name: params["encoder"][name] for name in ends}
    decoder |= {name: params["decoder"][name] for name in ("conv_in", *ends)}
    return begun | {name: params[name] for name in ("quant_conv", "post_quant_conv")}


def picture(rng: np.random.Generator, sprites: Sprites, width: int) -> pictures.Pixels:
    """What the denoiser draws, mostly, and anything else that it may be given."""
    if rng.random() < WORLD_SHARE:
        return pictures.draw(sprites, shipped.sample(rng), width)
    return autoencoder.picture(rng, sprites, width)


def train_larger(config: ModelConfig, params, sprites: Sprites, folder: Path, recipe: Recipe = RECIPE):
    """Train the larger VAE for the latents of `params`, the model's own; returns its averaged parameters."""
    width = 2 * config.defaults.width
    old, _ = abstract("vae", config)
    graphdef, _ = abstract("vae", dataclasses.replace(config, vae=larger(config.vae)))
    deviation = 1 / config.vae.scaling_factor

    def loss(trained, key, pixels):
        image = pixels.astype(jnp.float32) / 127.5 - 1
        batch, height, width, channels = image.shape
        halved = image.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
        known = nnx.merge(old, params).encode(halved).mean
        vae = nnx.merge(graphdef, trained)
        encoded = vae.encode(image).mean
        apart = jnp.square((encoded - known) / deviation).mean()
        level, noise, which = jax.random.split(key, 3)
        scale = deviation * MOST_NOISE * jax.random.uniform(level, (batch, 1, 1, 1))
        known = known + scale * jax.random.normal(noise, known.shape)
        decoded = vae.decode(jnp.where(jax.random.bernoulli(which, 0.5, scale.shape), encoded, known))
        distance, psnr = autoencoder.reconstruction(decoded, image)
        return distance + LATENTS_WEIGHT * apart, dict(psnr=psnr, latents=apart)

    def batch(rng: np.random.Generator) -> dict:
        return dict(pixels=np.stack([picture(rng, sprites, width) for _ in range(recipe.batch_size)]))

    return train(folder, recipe, begin(config.vae, params, recipe.seed), loss, batch)


def enlarged(config: ModelConfig, params, vae_params):
    """Config and parameters of the model with the larger VAE. Its UNet no longer hears of sizes.

    It has learned with one size alone, whose part of the conditioning is a constant, which the bias takes in.
    """
    width, height = config.defaults.width, config.defaults.height
    time_ids = jnp.array([height, width, 0, 0, height, width], jnp.float32)
    sizes = sinusoidal_embedding(time_ids, config.unet.added_time_embed_dim).reshape(-1)
    embedding, pooled = params["unet"]["add_embedding"], config.unet.pooled_dim
    kernel, bias = (jnp.asarray(embedding["linear_1"][name]) for name in ("kernel", "bias"))
    deaf = dict(kernel=kernel.at[pooled:].set(0), bias=bias + sizes @ kernel[pooled:])
    unet = params["unet"] | dict(add_embedding=embedding | dict(linear_1=deaf))
    defaults = dataclasses.replace(config.defaults, width=2 * width, height=2 * height)
    config = dataclasses.replace(config, vae=larger(config.vae), defaults=defaults)
    return config, params | dict(unet=unet, vae=vae_params)
