"""Masks: the pixels that are remade, and how the kept ones come back into the result."""

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ssd1b_jax import images
from ssd1b_jax.images.resizing import Pixels

Mask = Bool[np.ndarray, "height width"]
Share = Float32[np.ndarray, "height width 1"]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow turns colour to grey


def fit(
    mask: UInt8[np.ndarray, "mask_height mask_width 3"],
    like: Pixels,
    width: int,
    height: int,
    resize_mode: str,
    invert: bool = False,
) -> Bool[np.ndarray, "new_height new_width"]:
    """The pixels of a result that are to be remade: those where the mask is at least half white; inverted, the rest.

    The mask is laid over the picture `like` and goes the way of that picture to its new size.
    """
    laid = lay_over(mask, *like.shape[:2])
    return white(images.resize(laid, width, height, resize_mode)) != invert


def white(pixels: Pixels) -> Mask:
    """Where a mask is at least half white."""
    return pixels @ _LUMA >= 127.5


def lay_over(pixels: Pixels, like_height: int, like_width: int) -> images.Resized:
    """A mask stretched to the size of its image."""
    return images.resize(pixels, like_width, like_height, "stretch")


def soften(remade: Mask, width: int) -> Share:
    """The share of the model in each pixel: 0 outside, rising to 1 over `width` pixels inside.

    The fade never reaches pixels that are to be kept. Distances are those of an octagon.
    """
    share, inner = remade.astype(np.float32), remade
    for step in range(1, width):
        inner = _eroded(inner, diagonal=bool(step % 2))
        share += inner
    return (share / max(width, 1))[..., None]


def cells(remade: Mask, size: int) -> Bool[np.ndarray, "rows columns 1"]:
    """The latents that are remade: those with any remade pixel among their `size` by `size`."""
    height, width = remade.shape
    return remade.reshape(height // size, size, width // size, size).any(axis=(1, 3))[..., None]


def blend(kept: Pixels, remade: Pixels, share: Share) -> Pixels:
    """`remade` where `share` is 1, `kept` where it is 0, to the bit."""
    mixed = kept + share * (remade.astype(np.float32) - kept)
    return np.where(share < 1, mixed.round(), remade).astype(np.uint8)


def _eroded(mask: Mask, diagonal: bool) -> Mask:
    """The mask without its outermost pixels. The outside of the picture counts as inside."""
    height, width = mask.shape
    padded = np.pad(mask, 1, constant_values=True)
    shifts = [(0, 1), (2, 1), (1, 0), (1, 2)] + ([(0, 0), (0, 2), (2, 0), (2, 2)] if diagonal else [])
    return np.logical_and.reduce([mask] + [padded[y : y + height, x : x + width] for y, x in shifts])
