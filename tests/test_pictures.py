"""InputPictures that requests share: read once, told apart, and not kept for ever."""

import numpy as np
import pytest
from helpers import tiny
from helpers.requests import picture

from ssd1b_jax import Request, images
from ssd1b_jax.engine import pictures


@pytest.fixture
def read(monkeypatch):
    """A list that grows by every source that is read."""
    sources, load = [], images.load
    monkeypatch.setattr(images, "load", lambda source: sources.append(source) or load(source))
    return sources


def request(image, **settings):
    return Request(image=image, prompt="", **settings).resolve(tiny.tiny_config())


def test_a_shared_picture_is_read_once(read, tmp_path):
    images.save(picture(0, 50, 40), tmp_path / "a.png")
    kept = pictures.InputPictures(2)
    first, second = (kept.get(request(tmp_path / "a.png", seed=seed)) for seed in range(2))
    assert first is second and len(read) == 1
    other = kept.get(request(tmp_path / "a.png", height=48))
    assert other.pixels.shape == (48, tiny.SIZE, 3) and other.remade.shape == (24, tiny.SIZE // 2, 1)
    mask = np.tri(50, 40, dtype=np.uint8) * 255
    masked = kept.get(request(tmp_path / "a.png", mask=mask))
    assert first.share is None and masked.share.shape == (tiny.SIZE, tiny.SIZE, 1)
    assert [*masked.sources] == ["image", "mask"] and not masked.remade.all()
    inverted = kept.get(request(tmp_path / "a.png", mask=mask, mask_invert=True))
    assert np.array_equal(inverted.share, 1 - masked.share)


def test_equal_arrays_are_not_the_same_picture(read):
    kept, both = pictures.InputPictures(2), [request(picture(0, 50, 40)), request(picture(0, 50, 40))]
    first, second = map(kept.get, both)
    assert first is not second and len(read) == 2
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_only_the_last_few_are_kept(read):
    kept, requests = pictures.InputPictures(2), [request(picture(i, 50, 40)) for i in range(pictures.KEPT + 1)]
    for each in (*requests[:-1], requests[0], requests[-1]):
        kept.get(each)
    assert len(read) == pictures.KEPT + 1
    kept.get(requests[0])  # used since the second was
    assert len(read) == pictures.KEPT + 1
    kept.get(requests[1])
    assert len(read) == pictures.KEPT + 2


CUT_IN_FIT = "11% of the image's height was cut off: resize_mode pad or stretch keeps it"


@pytest.mark.parametrize(
    ("height", "width", "settings", "notes"),
    [
        (48, tiny.SIZE, {}, ("33% of the image's height was cut off: resize_mode fit, pad or stretch keeps it",)),
        (tiny.SIZE, 40, {}, ("20% of the image's width was cut off: resize_mode fit, pad or stretch keeps it",)),
        (tiny.SIZE + 1, tiny.SIZE, {}, ()),
        (48, tiny.SIZE, dict(resize_mode="pad"), ()),
        (48, tiny.SIZE, dict(height=48), ()),
        (40, 24, dict(resize_mode="fit"), ()),
        (
            36,
            tiny.SIZE,
            dict(resize_mode="fit"),
            (CUT_IN_FIT,),
        ),
    ],
)
def test_what_a_crop_leaves_out_is_told(height, width, settings, notes):
    assert pictures.InputPictures(2).get(request(picture(0, height, width), **settings)).notes == notes
