"""Every sample of docs/serving.md, run as it stands but for the server's address."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.server import png, running

from ssd1b_jax import images

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
PROGRAMS = {"bash": ["bash", "-euo", "pipefail"], "python": [sys.executable, "-W", "ignore"], "js": ["node"]}
SUFFIXES = {"bash": ".sh", "python": ".py", "js": ".mjs"}
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
SAMPLES = [
    pytest.param(language, code, id=f"{section.splitlines()[0]}-{language}")
    for section in SECTIONS
    for language, code in re.findall(r"```(bash|python|js)\n(.*?)```", section, re.DOTALL)
]


@pytest.fixture(scope="module")
def server(tiny_pipe):
    with running(tiny_pipe) as server:
        yield server


def test_each_dialect_has_a_sample_in_each_language():
    assert len(SAMPLES) == 5 * len(PROGRAMS)


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), SAMPLES)
def test_a_sample_makes_a_picture(server, tmp_path, language, code):
    program = PROGRAMS[language]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    (tmp_path / "doodle.png").write_bytes(png())
    script = tmp_path / f"sample{SUFFIXES[language]}"
    script.write_text(code.replace("127.0.0.1:7860", f"127.0.0.1:{server.port}").replace("7860", str(server.port)))
    ran = subprocess.run([*program, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    (made,) = tmp_path.glob("made.*")
    assert images.load(made).pixels.shape[-1] == 3
