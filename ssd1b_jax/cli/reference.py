"""docs/commands.md, from the parsers themselves: `python -m ssd1b_jax.cli.reference > docs/commands.md`."""

import argparse
from collections.abc import Iterator

from ssd1b_jax.cli import parser
from ssd1b_jax.errors import EXIT_CODES

INTRODUCTION = f"""# Commands

Made by `python -m ssd1b_jax.cli.reference > docs/commands.md`. An error is one sentence on standard error. {EXIT_CODES}
"""


def page() -> str:
    """The whole page: a section a command, a table of its options by group."""
    return "\n".join([INTRODUCTION, *(line for command in commands() for line in _section(command))])


def commands() -> Iterator[argparse.ArgumentParser]:
    """The parser of each command, in the order of `ssd1b --help`."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def options(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments and options of a command, but --help."""
    for group in command._action_groups:
        yield from (action for action in group._group_actions if not isinstance(action, argparse._HelpAction))


def _section(command: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {command.prog}\n"
    yield f"{_text(command.description)}\n"
    yield "| | |\n|---|---|"
    for action in options(command):
        yield f"| `{_text(_spelling(action))}` | {_text(action.help)} |"
    yield ""
    if command.epilog:
        yield f"{_text(command.epilog)}\n"


def _spelling(action: argparse.Action) -> str:
    """As it is typed: names, and what follows them."""
    values = _values(action)
    if not action.option_strings:
        return values
    return " ".join(filter(None, [", ".join(action.option_strings), values]))


def _values(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar is None and action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    value = action.metavar or action.dest.upper()
    return f"[{value}]" if action.nargs == "?" and action.option_strings else value


def _text(text: str | None) -> str:
    return " ".join((text or "").replace("%%", "%").replace("|", r"\|").split())


if __name__ == "__main__":
    print(page())
