"""Small pictures of latents."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from ssd1b_jax import presets
from ssd1b_jax.checkpoints.model_folder import load_model
from ssd1b_jax.images import previews
from ssd1b_jax.models import abstract
from ssd1b_jax.training import doodles


@pytest.mark.slow
def test_the_embedded_models_previews_look_like_the_pictures():
    model = load_model("emoji", dtype="float32")
    graphdef, _ = abstract("vae", model.config)
    encode = jax.jit(lambda params, image: nnx.merge(graphdef, params).encode(image).mean)
    image = np.stack([doodles.draw(name, 128) for name in doodles.DOODLES]).astype(np.float32) / 127.5 - 1
    latents = np.asarray(encode(model.params["vae"], image)) * model.config.vae.scaling_factor
    seen = previews.preview(model.config.vae, latents).astype(np.float32) / 127.5 - 1
    small = image.reshape(len(image), 16, 8, 16, 8, 3).mean(axis=(2, 4))
    explained = 1 - np.square(seen - small).mean() / small.var()
    assert explained > 0.7


def test_sdxls_previews_know_light_from_dark():
    """The first channel of SDXL's latents is brightness."""
    latents = np.zeros((2, 8, 8, 4), np.float32)
    latents[0, ..., 0], latents[1, ..., 0] = -2, 2
    dark, light = previews.preview(presets.sdxl_base().vae, latents)
    assert dark.shape == (8, 8, 3) and dark.max() < 100 and light.min() > 155


def test_there_is_none_for_an_unknown_autoencoder():
    vae = dataclasses.replace(presets.emoji().vae, scaling_factor=0.5)
    assert previews.preview(vae, np.zeros((1, 8, 8, 4), np.float32)) is None
    more = dataclasses.replace(presets.emoji().vae, latent_channels=16)
    assert previews.preview(more, np.zeros((1, 8, 8, 16), np.float32)) is None
