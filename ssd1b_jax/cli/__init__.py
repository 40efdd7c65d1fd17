"""The `ssd1b` command: arguments to Requests, Results to files."""

import argparse

from ssd1b_jax import __version__
from ssd1b_jax.arguments import Parser, run
from ssd1b_jax.cli import batch, convert, demo, grid, img2img, info, plan, process, replay, samplers, serve, txt2img
from ssd1b_jax.errors import EXIT_CODES

COMMANDS = (img2img, txt2img, batch, grid, replay, samplers, info, plan, demo, convert, serve)


def main(argv: list[str] | None = None) -> int:
    """Run one command line, by default the process's own, and return its exit code."""
    if argv is None:
        process.prepare()
    return run(lambda: _run(argv))


def _run(argv: list[str] | None) -> int | None:
    arguments = parser().parse_args(argv)
    if argv is None and getattr(arguments, "quiet", False):
        process.be_quiet()
    return arguments.command(arguments)


def parser() -> argparse.ArgumentParser:
    """The parser of `ssd1b` and of its commands."""
    parser = Parser(
        prog="ssd1b",
        description="Remake a picture after a prompt with SSD-1B, in JAX.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"ssd1b_jax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
