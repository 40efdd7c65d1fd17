"""The documents say what the code says."""

import re
from pathlib import Path

import pytest

from ssd1b_jax.cli import reference

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def test_the_list_of_commands_is_current():
    """Made again by `python -m ssd1b_jax.cli.reference > docs/commands.md`."""
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == f"{reference.page()}\n"


def test_every_option_has_words():
    for command in reference.commands():
        silent = [action.dest for action in reference.options(command) if not action.help]
        assert not silent, f"{command.prog}: {silent}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_exist(page):
    """In code of the documents; pip's and pytest's own are named here."""
    known = {option for command in reference.commands() for action in reference.options(command)
             for option in action.option_strings}  # fmt: skip
    others = {"--help", "--version", "--quick"}
    text = page.read_text(encoding="utf-8")
    lines = [line for line in re.findall(r"`(ssd1b [^`]*)`", text)]
    lines += [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
              if line.startswith("ssd1b ")]  # fmt: skip
    named = {option for line in lines for option in re.findall(r"(?<!\S)--[a-z0-9-]+", line)}
    assert named <= known | others


def test_the_readme_is_one_page():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= 660
