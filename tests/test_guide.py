"""docs/guide.md: its figures are what its commands make."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from ssd1b_jax import images

DOCS = Path(__file__).parents[1] / "docs"
APART = 2.0  # levels on average: processors round otherwise


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "guide" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_stands_under_its_command(figures):
    text = (DOCS / "guide.md").read_text(encoding="utf-8")
    made = [arguments[arguments.index("-o") + 1].removeprefix("docs/") for arguments in figures.commands()]
    assert made == re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert all((DOCS / name).is_file() for name in made)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guidance-drawing", "mask"])
def test_a_command_makes_its_figure(figures, name, tmp_path, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    (arguments,) = (arguments for arguments in figures.commands() if arguments[-1] == f"docs/guide/{name}.png")
    assert figures.make([*arguments[:-1], str(tmp_path / "figure.png")]) == 0
    fresh, kept = (images.load(path).pixels for path in (tmp_path / "figure.png", DOCS / "guide" / f"{name}.png"))
    assert np.abs(fresh.astype(int) - kept).mean() < APART
