"""The shape of the project: imports point one way, and some libraries have one home."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ssd1b_jax"
ORDER = [
    "choices", "arguments", "config", "files", "folders", "released", "kernels.pieces", "kernels.winograd",
    "kernels.attentions", "kernels.flash", "kernels.fusions", "kernels", "models.layers", "models.unet", "models.vae",
    "models.clip", "models", "tensors", "names", "sgm", "lora", "adapters", "schedule", "solvers.symbols",
    "solvers.onestep", "solvers.multistep", "solvers.registry", "solvers", "sampler", "devices", "noise", "tokenizer",
    "prompts", "metadata", "images", "letters", "masks", "previews", "overlap", "trees", "checkpoint", "provenance",
    "request", "pictures", "saving", "result", "stages", "batches", "pipeline", "replay", "figure", "grid", "notebook",
    "outline", "ahead", "plan", "cli.settings", "cli.console", "cli.img2img", "cli.samplers", "cli.replay", "cli.grid",
    "cli.info", "cli.plan", "cli", "cli.__main__", "bench.task", "bench.contenders", "bench.ours", "bench.peer",
    "bench.openvino", "bench", "bench.__main__",
]  # fmt: skip
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_point_one_way(path):
    own = {name.removeprefix("ssd1b_jax.") for name in imports(path) if name.startswith("ssd1b_jax.")} & set(ORDER)
    own -= {module(path), module(path.parent / "__init__.py")}  # the package is there already
    if module(path).startswith("training"):
        return
    assert module(path) in ORDER
    assert all(ORDER.index(name) < ORDER.index(module(path)) for name in own)
    assert not any(name.startswith("ssd1b_jax.training") for name in imports(path))


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("orbax", {"trees"}),
        ("PIL", {"images", "letters"}),  # pictures are read and written in one place; the other only draws letters
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
    assert [module(path) for path in FILES if "jax.pmap(" in path.read_text(encoding="utf-8")] == ["devices"]
    assert not any(name.split(".")[0] == "convert" for path in FILES for name in imports(path))


def test_files_are_short():
    long = {module(path): count for path in FILES if (count := len(path.read_text().splitlines())) > 310}
    assert long == {}
