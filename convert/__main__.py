"""`python -m convert SOURCE TARGET`, also installed as ssd1b-convert, is `ssd1b convert`."""

import argparse
import sys

from ssd1b_jax import arguments
from ssd1b_jax.cli import convert, process


def main(argv: list[str] | None = None) -> int:
    """Run one command line, by default the process's own, and return its exit code."""
    if argv is None:
        process.prepare()
    return arguments.run(lambda: convert.run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="ssd1b-convert",
        description=convert.DESCRIPTION,
        epilog=convert.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
