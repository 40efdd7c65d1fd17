"""Masks of interfaces that say what transparency means; others are read by `images.mask_rules`."""

import numpy as np

from ssd1b_jax.images import reading

HALF = 128


def of_openai(data: bytes) -> bytes | np.ndarray:
    """OpenAI's: transparent is remade."""
    alpha = reading.load_layers(data).alpha
    return data if alpha is None else np.where(alpha < HALF, 255, 0).astype(np.uint8)


def of_a1111(data: bytes) -> bytes | np.ndarray:
    """A1111's: in a picture with transparency, opaque is remade."""
    alpha = reading.load_layers(data).alpha
    return data if alpha is None else np.where(alpha > HALF, 255, 0).astype(np.uint8)
