"""Latents to a small picture while the loop runs: a linear map from their channels to colours.

It has one pixel a latent. Nothing of it runs on the devices: the loop yields its predicted clean
latents anyway, and the map is a product with a matrix of 5 by 3.
"""

import numpy as np
from jaxtyping import Float, UInt8

from ssd1b_jax.config import VAEConfig

# By the scaling factor, which tells autoencoders apart: rows for each channel of scaled latents and a
# constant, columns red, green, blue in [-1, 1]. SDXL's are ComfyUI's; emoji's are what
# `python -m ssd1b_jax.training preview` fits.
MAPS = {
    0.13025: (
        (0.3651, 0.4232, 0.4341),
        (-0.2533, -0.0042, 0.1068),
        (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
        (0.1084, -0.0175, -0.0011),
    ),
    0.34716: (
        (-0.0234, -0.2894, 0.0851),
        (-0.1829, 0.0648, 0.4076),
        (0.4651, 0.2385, 0.1386),
        (-0.3059, 0.1387, 0.1012),
        (0.2550, 0.0862, 0.0084),
    ),
}


def preview(
    config: VAEConfig, latents: Float[np.ndarray, "*batch height width channels"]
) -> UInt8[np.ndarray, "*batch height width 3"] | None:
    """Scaled latents as pixels, or None for an autoencoder whose map is not known."""
    known = MAPS.get(config.scaling_factor)
    if known is None or len(known) != 1 + latents.shape[-1]:
        return None
    *rows, constant = np.array(known, np.float32)
    image = latents @ np.stack(rows) + constant
    return ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
