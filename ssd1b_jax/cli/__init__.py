"""The `ssd1b` command: arguments to Requests, Results to files."""

import argparse
import atexit
import gc
import logging
import os
import sys
import warnings

from ssd1b_jax import __version__
from ssd1b_jax.arguments import Parser, run
from ssd1b_jax.cli import batch, convert, demo, grid, img2img, info, plan, replay, samplers, serve, txt2img
from ssd1b_jax.errors import EXIT_CODES

COMMANDS = (img2img, txt2img, batch, grid, replay, samplers, info, plan, demo, convert, serve)
# The levels of XLA's and of the TPU library's own log: only what ends the process.
NATIVE_LOGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}


def main(argv: list[str] | None = None) -> int:
    """Run one command line, by default the process's own, and return its exit code."""
    if argv is None:
        _prepare_process()
    return run(lambda: _run(argv))


def _run(argv: list[str] | None) -> int | None:
    arguments = parser().parse_args(argv)
    return arguments.command(arguments)


def _prepare_process() -> None:
    """Keep the libraries' chatter out of standard error, and the garbage collector out of the way."""
    for name, level in NATIVE_LOGS.items():
        os.environ.setdefault(name, level)
    logging.disable(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # JAX creates many objects that live until the end. Searching them again and again for garbage, and once
    # more at exit, takes a good part of a short command's time.
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)


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
