"""The `ssd1b` command: arguments to Requests, Results to files.

Exit codes: 0 done, 1 a picture failed, 2 bad input or weights, 3 disk, 70 device, 130 interrupted.
"""

import argparse
import os
import sys

from ssd1b_jax import __version__, images
from ssd1b_jax.cli import img2img, info

FAILED, BAD_INPUT, DISK, DEVICE, INTERRUPTED = 1, 2, 3, 70, 130
COMMANDS = (img2img, info)


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    try:
        arguments.command(arguments)
        return 0
    except images.SaveError as error:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd1b",
        description="Remake a picture after a prompt with SSD-1B, in JAX.",
        epilog="Exit codes: 0 done, 1 a picture failed, 2 bad input or weights, 3 disk, 70 device, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"ssd1b_jax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
