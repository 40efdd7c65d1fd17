"""Masks as other interfaces have them, to ours: white is remade."""

import numpy as np

from ssd1b_jax import images

HALF = 128


def of_openai(data: bytes) -> bytes | np.ndarray:
    """OpenAI's: transparent is remade. A mask without transparency is as ours."""
    alpha = images.load_alpha(data)
    if alpha is None:
        return data
    return np.where(alpha < HALF, 255, 0).astype(np.uint8)


def of_a1111(data: bytes, invert: bool) -> bytes | np.ndarray:
    """A1111's: white is remade, or in a picture with transparency what is opaque; `invert` turns it round."""
    alpha = images.load_alpha(data)
    if alpha is None and not invert:
        return data
    pixels = images.load(data).pixels if alpha is None else np.where(alpha > HALF, 255, 0).astype(np.uint8)
    return 255 - pixels if invert else pixels
