"""The shape of the project: which room may import which, and what has one home."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ssd1b_jax"

# A room is a folder of the package or a file beside the folders. It may import those that it names, and all that they
# may. The ground floor ends with `runs`: it never imports JAX.
ROOMS = {
    "errors": "",
    "files": "errors",
    "config": "errors",
    "presets": "config",
    "samplers": "config",
    "prompts": "errors",
    "images": "files config",
    "settings": "samplers images",
    "arguments": "settings",
    "request": "settings prompts",
    "request_list": "request",
    "records": "request",
    "result": "records",
    "openai_batch": "request",
    "runs": "result openai_batch",
    "kernels": "",
    "models": "kernels config",
    "checkpoints": "models settings presets",
    "engine": "checkpoints result",
    "pipeline": "engine request_list",
    "replay": "pipeline",
    "grid": "records",
    "notebook": "grid server",
    "plan": "pipeline presets",
    "server": "replay openai_batch",
    "cli": "arguments grid plan server runs",
    "__main__": "cli",
    "bench": "arguments pipeline presets runs server",
    "training": "arguments pipeline",
}
GROUND = list(ROOMS)[: list(ROOMS).index("runs") + 1]
COMPOSERS = {f"training.{name}" for name in ("artwork", "judge", "pictures")}  # of pictures to learn from
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def allowed(name: str) -> set[str]:
    """A room, those that it names, and all that they may import."""
    return {name}.union(*map(allowed, ROOMS[name].split()))


@cache
def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_room_imports_what_its_row_allows(path):
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("ssd1b_jax.")} & ROOMS.keys()
    assert rooms <= allowed(room(path))


def test_the_ground_floor_leaves_jax_out():
    """All of it is imported, a Request is resolved and a record read, in a process that never imports JAX."""
    names = ", ".join(f"ssd1b_jax.{module(path)}" for path in FILES if room(path) in GROUND)
    program = f"""
import sys
import {names}
from ssd1b_jax import Request, RequestError, Result, records
from ssd1b_jax.presets import ssd_1b
request = Request(image="a.png", prompt="a (red:1.2) apple", seed=7).resolve(ssd_1b())
assert request.table(ssd_1b()).steps_run == 18
assert records.read({str(PACKAGE / "embedded" / "pumpkin.png")!r})["request"]["seed"] == 8
heavy = {{"jax", "jaxlib", "flax", "orbax", "torch"}} & {{name.split(".")[0] for name in sys.modules}}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PACKAGE.parent)


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("orbax", {"checkpoints.orbax"}),
        (
            "PIL",
            {"images.reading", "images.resizing", "images.writing", "grid.letters", *COMPOSERS},
        ),  # letters only draws them
        ("torch", {"bench.peer"}),
        ("diffusers", {"bench.peer"}),
        ("openvino", {"bench.openvino"}),
    ],
)
def test_a_library_has_one_home(library, home):
    """PyTorch and diffusers only as what the benchmark measures against."""
    users = {module(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}
    assert users == home


def test_there_is_one_pmap_and_no_way_back_from_convert():
    assert [module(path) for path in FILES if "jax.pmap(" in path.read_text(encoding="utf-8")] == ["engine.devices"]
    assert not any(name.split(".")[0] == "convert" for path in FILES for name in imports(path))


def test_files_are_short():
    files = [*FILES, *(PACKAGE.parent / "convert").rglob("*.py")]
    long = {path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 300}
    assert not long
