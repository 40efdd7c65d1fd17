"""What a type checker sees of the public names."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import ssd1b_jax

ROOT = Path(__file__).parents[1]
RIGHT = """
from ssd1b_jax import Output, Pipeline, Request, Result

pipe = Pipeline.from_pretrained("emoji")
one: Result = pipe(image="a.png", prompt="a cat", strength=0.5, noise="torch")
several: list[Result] = pipe(image="a.png", prompt="a cat", num_images=3)
request = Request(image=b"", prompt="a cat", resize_mode="pad")
pipe.generate([request])[0].save("a.png", Output(upscale=2), sidecar=True)
"""
WRONG = """
from ssd1b_jax import Request

Request(imagee="a.png", prompt="a cat")
"""


# Of libraries nothing is looked at, and of this package only what the program uses.
CONFIG = """
[mypy]
follow_imports = silent
ignore_missing_imports = True
[mypy-jax.*,jaxlib.*,flax.*,orbax.*,numpy.*,PIL.*,ml_dtypes.*,tokenizers.*,tqdm.*,huggingface_hub.*,platformdirs.*]
follow_imports = skip
"""


def check(folder: Path, program: str) -> subprocess.CompletedProcess:
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8")
    (folder / "mypy.ini").write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", path.name]
    return subprocess.run(command, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True, cwd=folder)


def test_a_checker_passes_what_is_right_and_finds_a_mistake(tmp_path):
    right = check(tmp_path, RIGHT)
    assert right.returncode == 0, right.stdout
    wrong = check(tmp_path, WRONG)
    assert wrong.returncode == 1
    assert 'Unexpected keyword argument "imagee" for "Request"' in wrong.stdout


def test_every_public_name_is_one_that_checkers_see():
    text = Path(ssd1b_jax.__file__).read_text(encoding="utf-8")
    for name in ssd1b_jax.__all__:
        assert f"{name} as {name}" in text
        assert getattr(ssd1b_jax, name) is getattr(importlib.import_module(getattr(ssd1b_jax, name).__module__), name)
