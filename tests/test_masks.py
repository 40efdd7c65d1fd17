"""Masks: what is remade, what is kept, and the seam between."""

import numpy as np
import pytest

from ssd1b_jax import images
from ssd1b_jax.images import masks


def square(size: int = 32, border: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[border:-border, border:-border] = True
    return mask


def as_picture(mask: np.ndarray) -> np.ndarray:
    return np.repeat(np.uint8(255)[None, None] * mask[..., None].astype(np.uint8), 3, axis=-1)


def test_a_mask_goes_the_way_of_its_picture():
    """A mask of half the size, and of the same size, mark the same part of a picture that is cropped."""
    picture = np.zeros((64, 96, 3), np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[:, 64:] = True
    expected = np.zeros((32, 32), bool)
    expected[:, 24:] = True  # 96 x 64 is cropped to the middle 64 x 64, which ends 16 pixels into the mask
    for source in (as_picture(mask), as_picture(mask)[::2, ::2]):
        assert np.array_equal(masks.fit(source, picture, 32, 32, "crop"), expected)


def fitted(mask: np.ndarray) -> list[list[bool]]:
    """As a mask of a picture of its own size."""
    pixels = images.load(mask).pixels
    height, width, _ = pixels.shape
    return masks.fit(pixels, np.zeros_like(pixels), width, height, "stretch").tolist()


def test_grey_counts_by_half_and_clear_parts_are_white():
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    assert masks.fit(images.load(levels).pixels, np.zeros((1, 4, 3), np.uint8), 4, 1, "stretch").tolist() == [
        [False, False, True, True]
    ]
    clear = np.zeros((1, 2, 4), np.uint8)
    clear[0, 0, 3] = 255
    assert masks.fit(images.load(clear).pixels, np.zeros((1, 2, 3), np.uint8), 2, 1, "stretch").tolist() == [
        [False, True]
    ]


def test_the_seam_lies_on_the_white_side():
    mask = square()
    hard, soft = masks.soften(mask, 0), masks.soften(mask, 4)
    assert np.array_equal(hard[..., 0], mask) and np.array_equal(hard, masks.soften(mask, 1))
    assert not soft[~mask].any()
    assert soft[16, :, 0].tolist() == [0] * 8 + [0.25, 0.5, 0.75] + [1] * 10 + [0.75, 0.5, 0.25] + [0] * 8
    assert masks.soften(np.ones((8, 8), bool), 4).min() == 1, "the picture's border is no seam"


@pytest.mark.parametrize("size", [4, 8])
def test_a_cell_is_remade_if_any_of_its_pixels_is(size):
    mask = np.zeros((16, 16), bool)
    mask[0, size] = True
    assert np.argwhere(masks.cells(mask, size)).tolist() == [[0, 1, 0]]


def test_what_is_kept_is_kept_to_the_bit():
    rng = np.random.default_rng(0)
    kept, made = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    mask = square()
    mixed = masks.blend(kept, made, masks.soften(mask, 5))
    assert np.array_equal(mixed[~mask], kept[~mask])
    assert np.array_equal(mixed[16, 16], made[16, 16])
    seam = mixed[16, 8].astype(int)
    assert np.abs(seam - (0.8 * kept[16, 8] + 0.2 * made[16, 8])).max() <= 0.51
