"""A sampler is one function and one row: everything else follows from these two."""

import numpy as np
import pytest
from helpers import tiny

from ssd1b_jax import Request, RequestError, cli, records, settings
from ssd1b_jax.samplers import SAMPLERS, build
from ssd1b_jax.samplers.onestep import euler
from ssd1b_jax.samplers.registry import Sampler

NAMES = ["halves", "Half Steps", "half-steps", "HalvesScheduler"]


def halves(run):
    """As Euler's: the calls of another sampler are a sampler."""
    yield from euler(run)


@pytest.fixture(autouse=True)
def new_sampler(monkeypatch):
    row = Sampler(
        description="a sampler of the tests",
        update=halves,
        grid=SAMPLERS["euler"].grid,
        order=1,
        label="Half Steps",
        diffusers="HalvesScheduler",
    )
    monkeypatch.setitem(SAMPLERS, "halves", row)
    build.cache_clear()
    yield
    build.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_it_resolves_by_every_name(name):
    request = Request(image="x.png", prompt="a cat", scheduler=name).resolve(tiny.tiny_config())
    assert request.scheduler == "halves"
    assert request.table(tiny.tiny_config()).steps_run == 3


def test_it_is_listed(capsys):
    assert cli.main(["samplers"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("halves ")]
    assert line.endswith("a sampler of the tests (also Half Steps, HalvesScheduler)")
    assert "halves" in settings.schema()["properties"]["scheduler"]["enum"]
    with pytest.raises(RequestError, match="did you mean halves"):
        Request(image="x.png", prompt="a cat", scheduler="halvs").resolve(tiny.tiny_config())


def test_it_runs_and_is_recorded(tiny_pipe):
    image = np.full((32, 32, 3), 120, np.uint8)
    result = tiny_pipe(image=image, prompt="a cat", seed=3, scheduler="halves")
    reference = tiny_pipe(image=image, prompt="a cat", seed=3, scheduler="euler")
    assert np.array_equal(result.pixels, reference.pixels)
    assert result.record["request"]["scheduler"] == "halves"
    assert "Sampler: Half Steps, CFG scale: 3" in records.parameters(result.record)
