"""Masks of interfaces that say what transparency means; others are read by `images.mask_rules`."""

from collections.abc import Callable

import numpy as np

from ssd1b_jax.images import reading

HALF = 128


def of_openai(data: bytes) -> bytes | np.ndarray:
    """OpenAI's: transparent is remade."""
    return _by_alpha(data, lambda alpha: alpha < HALF)


def of_a1111(data: bytes) -> bytes | np.ndarray:
    """A1111's: in a picture with transparency, opaque is remade."""
    return _by_alpha(data, lambda alpha: alpha > HALF)


def _by_alpha(data: bytes, remade: Callable[[np.ndarray], np.ndarray]) -> bytes | np.ndarray:
    """The mask as booleans; without transparency the file as it is."""
    alpha = reading.load_layers(data).alpha
    return data if alpha is None else remade(alpha)
