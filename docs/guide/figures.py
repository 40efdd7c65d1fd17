"""Makes every figure of docs/guide.md again, by the commands that stand there: `python docs/guide/figures.py`."""

import re
import shlex
import shutil
import sys
from pathlib import Path

from ssd1b_jax.cli import main

GUIDE = Path(__file__).parents[1] / "guide.md"


def commands() -> list[list[str]]:
    """The arguments of each command."""
    blocks = re.findall(r"```sh\nssd1b (.*?)\n```", GUIDE.read_text(encoding="utf-8"))
    return [shlex.split(block) for block in blocks]


def make(arguments: list[str]) -> int:
    """Run a command in the root of the clone, and remove the single pictures of its table."""
    code = main([*arguments, "--quiet"])
    shutil.rmtree(Path(arguments[arguments.index("-o") + 1]).with_suffix(""), ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(max(map(make, commands())))
