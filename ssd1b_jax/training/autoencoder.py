"""The VAE of the embedded model: reconstruct pixels through a small Gaussian bottleneck."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models.vae import VAE
from ssd1b_jax.training.loop import Recipe, train

RECIPE = Recipe(steps=1150, batch_size=16, learning_rate=5e-3, adam_learning_rate=3e-3, ema_decay=0.995)
KL_WEIGHT = 3e-4
THINGS_SHARE = 0.7  # of a batch; the rest are scenes


def edges(image: Float[Array, "batch height width channels"]) -> tuple[Array, Array]:
    """Differences of neighbouring pixels, down and across."""
    return image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]


def train_autoencoder(config: ModelConfig, pictures: Path, run: Path, recipe: Recipe = RECIPE):
    """Train on rendered pictures and return the averaged parameters."""
    graphdef, state = nnx.split(VAE(config.vae, rngs=nnx.Rngs(recipe.seed)))
    pixels = np.load(pictures / "pixels.npy", mmap_mode="r")
    things = int((np.load(pictures / "labels.npy")[:, 0] >= 0).sum())

    def batch(rng: np.random.Generator) -> dict:
        count = round(THINGS_SHARE * recipe.batch_size)
        chosen = [rng.integers(0, things, count), rng.integers(things, len(pixels), recipe.batch_size - count)]
        return dict(pixels=pixels[np.sort(np.concatenate(chosen))])

    def loss(params, key, pixels):
        image = pixels.astype(jnp.float32) / 127.5 - 1
        vae = nnx.merge(graphdef, params)
        posterior = vae.encode(image)
        decoded = vae.decode(posterior.sample(jax.random.normal(key, posterior.mean.shape)))
        squared = jnp.square(decoded - image).mean()
        edge = sum(jnp.abs(a - b).mean() for a, b in zip(edges(decoded), edges(image), strict=True))
        kl = 0.5 * (jnp.square(posterior.mean) + jnp.exp(posterior.log_variance) - 1 - posterior.log_variance).mean()
        psnr = -10 * jnp.log10(jnp.square((decoded - image) / 2).mean((1, 2, 3))).mean()
        total = jnp.abs(decoded - image).mean() + squared + edge + KL_WEIGHT * kl
        return total, dict(psnr=psnr, kl=kl)

    return train(run, recipe, nnx.to_pure_dict(state), loss, batch)


def fit_preview(latents: Path, pictures: Path, factor: int, scaling_factor: float, count: int = 4000):
    """What `previews` needs: the linear map from scaled latents and a constant to colours, by least squares."""
    chosen = np.sort(np.random.default_rng(0).choice(len(np.load(latents, mmap_mode="r")), count, replace=False))
    codes = np.load(latents, mmap_mode="r")[chosen].astype(np.float64) * scaling_factor
    pixels = np.load(pictures / "pixels.npy", mmap_mode="r")[chosen] / 127.5 - 1
    _, height, width, channels = codes.shape
    colours = pixels.reshape(count, height, factor, width, factor, 3).mean(axis=(2, 4))
    inputs = np.concatenate([codes, np.ones_like(codes[..., :1])], axis=-1).reshape(-1, channels + 1)
    fitted, *_ = np.linalg.lstsq(inputs, colours.reshape(-1, 3))
    return fitted.round(4)
