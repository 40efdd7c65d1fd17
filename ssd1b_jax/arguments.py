"""Command lines: argparse, with one sentence for every error. Exit code 2 is bad input."""

import argparse
import sys
from typing import NoReturn

from ssd1b_jax.choices import nearest


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong on one line, and where the help is; its subparsers do too."""

    def __init__(self, *values, **settings):
        super().__init__(*values, allow_abbrev=False, **settings)  # --prompt would be --prompt-2
        self.register("type", int, _whole)
        self.register("type", float, _number)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse, but here, where the command is known, an option that is unknown is an error."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(_unknown(unknown[0], self._option_string_actions))
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        print(f"error: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        self.exit(2)


def _unknown(said: str, options) -> str:
    if not said.startswith("-"):
        return f"one argument too many: {said!r}; quote text that has spaces"
    near = nearest(said.partition("=")[0], options)
    return f"unknown option {said}" + (f": did you mean {near}?" if near else "")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a whole number is needed, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number is needed, got {text!r}") from None
