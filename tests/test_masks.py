"""Masks: what is remade, what is kept, and the seam between."""

import numpy as np
import pytest
from PIL import Image

from ssd1b_jax.images import mask_rules, masks


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


def remade(mask, invert: bool = False) -> np.ndarray:
    """The part that is remade of a picture of the mask's own size."""
    pixels = mask_rules.read(mask).pixels
    height, width, _ = pixels.shape
    return masks.fit(pixels, np.zeros_like(pixels), width, height, "stretch", invert)


def test_grey_counts_by_half():
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    assert remade(levels).tolist() == [[False, False, True, True]]
    assert remade(levels, invert=True).tolist() == [[True, True, False, False]]
    assert mask_rules.read(levels).notes == ("its grey parts count as white from the middle up, and as black below",)


SQUARE = np.where(square(), 255, 0).astype(np.uint8)
PAINTED = "what is painted on its clear layer (alpha) is remade"
ERASED = "what is erased from it (alpha) is remade"
COLOURED = "its colours count by their brightest channel"


def layer(color, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([np.full(alpha.shape, channel, np.uint8) for channel in color] + [alpha])


def photograph() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def two_colors() -> np.ndarray:
    """Red and blue strokes that make the square together."""
    strokes = layer((200, 0, 30), SQUARE)
    strokes[:, 16:, :3] = (20, 60, 220)
    return strokes


def soft_edges() -> np.ndarray:
    """A stroke whose rim is half clear, as brushes paint."""
    return layer((250, 250, 250), np.where(square(border=7) & ~square(), 100, SQUARE).astype(np.uint8))


def rubbed_out() -> np.ndarray:
    """A white square, and around it black where a stroke was painted over, on a clear layer."""
    strokes = layer((0, 0, 0), np.where(square(border=4), 255, 0).astype(np.uint8))
    strokes[square()] = 255
    return strokes


@pytest.mark.parametrize(
    ("mask", "notes"),
    [
        (SQUARE, ()),
        (square(), ()),
        (SQUARE[..., None], ()),
        (SQUARE // 255, ("its values are 0 and 1, so 1 counts as white",)),
        (np.dstack([SQUARE, 0 * SQUARE, 0 * SQUARE]), (COLOURED,)),
        (np.dstack([0 * SQUARE, 0 * SQUARE, SQUARE]), (COLOURED,)),
        (layer((255, 255, 255), SQUARE), (PAINTED,)),
        (layer((0, 0, 0), SQUARE), (PAINTED,)),
        (layer((255, 0, 0), SQUARE), (PAINTED,)),
        (two_colors(), (PAINTED,)),
        (soft_edges(), (PAINTED,)),
        (rubbed_out(), ("its light parts are remade, and its clear ones (alpha) kept",)),
        (np.dstack([photograph(), 255 - SQUARE]), (ERASED,)),
        (layer((235, 225, 205), 255 - SQUARE), (ERASED,)),
        (layer((0, 0, 0), 255 - SQUARE), (ERASED,)),
    ],
)
def test_masks_as_people_hand_them_over(mask, notes):
    """All of them ask for the square in the middle."""
    assert np.array_equal(remade(mask), square())
    assert np.array_equal(remade(mask, invert=True), ~square())
    assert mask_rules.read(mask).notes == notes


def test_a_subject_on_an_erased_background_is_kept():
    cut_out = np.dstack([photograph(), SQUARE])
    assert np.array_equal(remade(cut_out), ~square())
    assert mask_rules.read(cut_out).notes == (ERASED,)


def test_a_clear_mask_remakes_all():
    clear = layer((0, 0, 0), 0 * SQUARE)
    assert remade(clear).all() and mask_rules.read(clear).notes == ("it is clear all over, so all is remade",)


def test_files_and_pillow_images_are_masks_too(tmp_path):
    strokes = Image.fromarray(layer((255, 255, 255), SQUARE))
    strokes.save(tmp_path / "mask.png")
    Image.fromarray(SQUARE).convert("1").save(tmp_path / "bits.png")
    for source in (strokes, tmp_path / "mask.png", tmp_path / "bits.png"):
        assert np.array_equal(remade(source), square())


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
