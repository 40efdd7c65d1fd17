"""The `ssd1b` command: arguments to Requests, Results to files.

Exit codes: 0 done, 1 a picture failed, 2 bad input or weights, 3 disk, 70 device, 130 interrupted.
"""

import atexit
import gc
import os
import sys

from ssd1b_jax import __version__
from ssd1b_jax.arguments import Parser
from ssd1b_jax.cli import grid, img2img, info, plan, replay, samplers
from ssd1b_jax.errors import SaveError

FAILED, BAD_INPUT, DISK, DEVICE, INTERRUPTED = 1, 2, 3, 70, 130
HUNG_UP = 141  # what a shell reports of a program whose reader has gone
COMMANDS = (img2img, grid, replay, samplers, info, plan)


def main(argv: list[str] | None = None) -> int:
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `ssd1b info | head`: no one is left to tell, also not at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return HUNG_UP


def _run(argv: list[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    # JAX makes many objects that stay: to look for garbage among them again and again, and when the
    # process ends, takes a good part of a short command's time.
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)
    try:
        return arguments.command(arguments) or 0
    except BrokenPipeError:
        raise
    except SaveError as error:
        return _fail(error, DISK)
    except (RuntimeError, MemoryError) as error:
        return _fail(f"the device failed: {_first_line(error)}", DEVICE)
    except ArithmeticError as error:
        return _fail(error, FAILED)
    except (ValueError, OSError) as error:
        return _fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _fail(error: object, code: int) -> int:
    print(f"error: {_first_line(error)}", file=sys.stderr)
    return code


def _first_line(error: object) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _parser() -> Parser:
    parser = Parser(
        prog="ssd1b",
        description="Remake a picture after a prompt with SSD-1B, in JAX.",
        epilog="Exit codes: 0 done, 1 a picture failed, 2 bad input or weights, 3 disk, 70 device, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"ssd1b_jax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
