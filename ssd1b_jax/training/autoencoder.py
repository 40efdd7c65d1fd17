"""The VAE of the embedded model: reconstruct pixels through a small Gaussian bottleneck.

It learns on windows of pictures first, chosen where something is drawn, which costs a quarter and
teaches as much; then on whole pictures.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models.vae import VAE
from ssd1b_jax.training import pictures
from ssd1b_jax.training.artwork import Sprites
from ssd1b_jax.training.loop import Recipe, train

WINDOWS = Recipe(steps=1800, batch_size=24, learning_rate=5e-3, adam_learning_rate=3e-3, cooldown=0.1, ema_decay=0.995)
RECIPE = Recipe(steps=800, batch_size=8, learning_rate=3e-3, adam_learning_rate=2e-3, cooldown=0.7, ema_decay=0.99)
Window = UInt8[np.ndarray, "rows columns 3"]
RUNS = "windows", "whole"
WINDOW = 64  # pixels along each side
WINDOWS_EACH = 4  # of a picture
KL_WEIGHT = 3e-4
SCENES_SHARE = 0.55  # of a batch; then sources, and the rest are mixtures
SOURCES_SHARE = 0.2
MARGIN = 0.01  # how far beyond white and black the decoder may well go


def picture(rng: np.random.Generator, sprites: Sprites, width: int) -> pictures.Pixels:
    """Any picture that the autoencoder must know."""
    kind = rng.random()
    if kind > SCENES_SHARE + SOURCES_SHARE:
        return pictures.mixture(rng, sprites, width)
    scene = pictures.sample(rng)
    if kind < SCENES_SHARE:
        return pictures.draw(sprites, scene, width)
    return pictures.draw(sprites, pictures.source(rng, scene), width, photo=rng.random() < 0.5)


def windows_of(rng: np.random.Generator, pixels: pictures.Pixels, size: int) -> list[Window]:
    """The liveliest half of eight windows into a picture."""
    corners = rng.integers(0, len(pixels) - size + 1, (2 * WINDOWS_EACH, 2))
    windows = [pixels[y : y + size, x : x + size] for y, x in corners]
    return sorted(windows, key=lambda pixels: -pixels[::4, ::4].std((0, 1)).sum())[:WINDOWS_EACH]


def edges(image: Float[Array, "batch height width channels"]) -> tuple[Array, Array]:
    """Differences of neighbouring pixels, down and across."""
    return image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]


def free_beyond(decoded: Array, image: Array) -> Array:
    """`decoded`, taken for right where the image is white or black and it is a little more than that."""
    wanted = jnp.where(image >= 1, 1 + MARGIN, jnp.where(image <= -1, -1 - MARGIN, image))
    beyond = ((image >= 1) & (decoded > wanted)) | ((image <= -1) & (decoded < wanted))
    return jnp.where(beyond, image, decoded - wanted + image)


def reconstruction(decoded: Array, image: Array) -> tuple[Array, Array]:
    """How far `decoded` is from `image`: L1, squared, and L1 of edges; and the mean PSNR in dB."""
    fitted = free_beyond(decoded, image)
    edge = sum(jnp.abs(a - b).mean() for a, b in zip(edges(fitted), edges(image), strict=True))
    errors = jnp.square((jnp.clip(decoded, -1, 1) - image) / 2).mean((1, 2, 3))
    psnr = -10 * jnp.log10(errors + 1e-8).mean()
    return jnp.abs(fitted - image).mean() + jnp.square(fitted - image).mean() + edge, psnr


def train_autoencoder(config: ModelConfig, sprites: Sprites, folder: Path, windows=WINDOWS, recipe=RECIPE):
    """Train on windows, then on whole pictures; returns the averaged parameters."""
    width = config.defaults.width
    graphdef, state = nnx.split(VAE(config.vae, rngs=nnx.Rngs(recipe.seed)))

    def loss(params, key, pixels):
        image = pixels.astype(jnp.float32) / 127.5 - 1
        vae = nnx.merge(graphdef, params)
        posterior = vae.encode(image)
        decoded = vae.decode(posterior.sample(jax.random.normal(key, posterior.mean.shape)))
        distance, psnr = reconstruction(decoded, image)
        kl = 0.5 * (jnp.square(posterior.mean) + jnp.exp(posterior.log_variance) - 1 - posterior.log_variance).mean()
        return distance + KL_WEIGHT * kl, dict(psnr=psnr, kl=kl)

    def small(rng: np.random.Generator) -> dict:
        drawn = (picture(rng, sprites, width) for _ in range(windows.batch_size // WINDOWS_EACH))
        return dict(
            pixels=np.stack([pixels for each in drawn for pixels in windows_of(rng, each, min(WINDOW, width // 2))])
        )

    def whole(rng: np.random.Generator) -> dict:
        return dict(pixels=np.stack([picture(rng, sprites, width) for _ in range(recipe.batch_size)]))

    begun = train(folder / RUNS[0], windows, nnx.to_pure_dict(state), loss, small)
    return train(folder / RUNS[1], dataclasses.replace(recipe, seed=recipe.seed + 1), begun, loss, whole)


def fit_preview(latents: np.ndarray, pixels: np.ndarray, factor: int, scaling_factor: float):
    """What `previews` needs: the linear map from scaled latents and a constant to colors, by least squares."""
    codes = latents.astype(np.float64) * scaling_factor
    count, height, width, channels = codes.shape
    colors = (pixels / 127.5 - 1).reshape(count, height, factor, width, factor, 3).mean(axis=(2, 4))
    inputs = np.concatenate([codes, np.ones_like(codes[..., :1])], axis=-1).reshape(-1, channels + 1)
    fitted, *_ = np.linalg.lstsq(inputs, colors.reshape(-1, 3))
    return fitted.round(4)
