"""What the wheel holds, and what the tests' environment is pinned to."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ssd1b_jax.server import documents

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def requirements(extra: str) -> list[Requirement]:
    """Those of an extra, with those of the extras that it includes."""
    listed = []
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            listed += [inner for name in sorted(requirement.extras) for inner in requirements(name)]
        else:
            listed.append(requirement)
    return listed


DIRECT = [*map(Requirement, PROJECT["dependencies"]), *requirements("reference")]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_a_requirement_is_pinned_once_and_to_a_version_it_allows(requirement, python):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = [
        pin
        for pin in PINS
        if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]
    assert len(pins) == 1
    version = str(pins[0].specifier).removeprefix("==")
    assert requirement.specifier.contains(version)


def test_pins_are_versions_that_an_index_has():
    """No paths, no addresses, no local versions such as 2.13.0+cpu, nothing of this project."""
    for pin in PINS:
        assert pin.url is None
        assert re.fullmatch(r"==[0-9.]+(b[0-9]+)?(post[0-9]+)?", str(pin.specifier)), pin
        assert canonicalize_name(pin.name) != canonicalize_name(PROJECT["name"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.iterdir()
    return path


def test_the_wheel_holds_both_packages_without_the_pictures_of_their_pages(wheel):
    files = {
        path
        for package in ("ssd1b_jax", "convert")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    pictures = set((ROOT / "ssd1b_jax" / "embedded").glob("*.png"))
    expected = {path.relative_to(ROOT).as_posix() for path in files - pictures}
    guide = (path for path in (ROOT / "docs" / "guide").iterdir() if path.is_file())
    shown = [*guide, *(ROOT / "docs" / name for name in documents.NAMES)]
    expected |= {f"ssd1b_jax/server/{path.relative_to(ROOT).as_posix()}" for path in shown}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert pictures
    assert "ssd1b_jax/embedded/doodles/face.png" in names
    assert "ssd1b_jax/embedded/emoji/model.json" in names


@pytest.mark.slow
def test_the_embedded_model_is_whole_in_the_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "ssd1b_jax.cli", "info", "emoji"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert f"emoji ({tmp_path / 'ssd1b_jax' / 'embedded' / 'emoji'}), every file verified" in result.stdout
