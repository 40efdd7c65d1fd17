"""The number of pictures that a device takes at a time, where it is measured."""

import jax
import jax.numpy as jnp
import pytest
from helpers.requests import mixture

from ssd1b_jax import Pipeline
from ssd1b_jax.engine import width
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.stages import part_dtypes


@pytest.fixture
def measured(tiny_model, tmp_path, monkeypatch):
    """Measures as if calls took these seconds; gives the width, and the one that is kept."""
    monkeypatch.setattr(width, "enable_compilation_cache", lambda: tmp_path)
    devices = Devices(jax.devices()[:1])
    about = tiny_model.config, part_dtypes(tiny_model.config, jnp.float32), devices

    def measure(*seconds: float) -> tuple[int, int | None]:
        turns = iter(seconds)
        monkeypatch.setattr(width, "_seconds", lambda *_: next(turns))
        monkeypatch.setattr(width.programs.Programs, "get", lambda *_: None)
        monkeypatch.setattr(width, "_fits", lambda _, spread: spread.per_device <= 8)
        return width.measure(*about, params={}), width.kept(*about)

    measure.about = about
    return measure


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ((1, 2.1), 1),  # one picture fills the device
        ((1, 1, 1, 3), 4),
        ((1, 1.9, 3.9, 7.7), 1),  # within 5% of all that follow
        ((1, 1, 1, 1, 1), 8),  # memory holds no more
    ],
)
def test_the_smallest_that_is_nearly_the_best_is_taken_and_kept(measured, seconds, best):
    assert measured(*seconds) == (best, best)


def test_what_was_kept_is_of_the_same_model_and_devices_and_whole(measured, tmp_path):
    config, dtypes, devices = measured.about
    measured(1, 1, 3)
    assert width.kept(config, dtypes, Devices(jax.devices()[:2])) is None
    assert width.kept(config, part_dtypes(config, jnp.bfloat16), devices) is None
    [file] = tmp_path.rglob("*.json")
    for damaged in ("{", "[]", '{"wide": 4}'):
        file.write_text(damaged)
        assert width.kept(config, dtypes, devices) is None


@pytest.mark.slow
def test_a_pipeline_measures_once(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(width, "enable_compilation_cache", lambda: tmp_path)
    options = dict(devices=jax.devices()[:1], per_device="auto")
    first = Pipeline.from_pretrained(tiny_folder, **options)
    assert first.devices.per_device in width.WIDTHS
    monkeypatch.setattr(width, "measure", None)
    again = Pipeline.from_pretrained(tiny_folder, **options)
    assert again.devices.per_device == first.devices.per_device
    [result] = again.generate(mixture()[:1])
    assert result.record["per_device"] == first.devices.per_device
