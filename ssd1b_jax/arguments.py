"""Command lines: argparse with one sentence for every error, and the exit code of every way to end."""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from ssd1b_jax.errors import BAD_INPUT, DEVICE, DISK, DONE, INTERRUPTED, Error, first_line
from ssd1b_jax.settings import SETTINGS, meant, nearest

HUNG_UP = 141  # the code that a shell gives a program whose reader has gone
DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)


def run(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; the sentence of an error goes to standard error.

    Exceptions that are neither an `Error` nor the platform's are bugs: they show their traceback.
    """
    _tolerate_console()
    try:
        try:
            return command() or DONE
        finally:
            sys.stdout.flush()
    except Error as error:
        return _fail(error.sentence, error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # as in `ssd1b info | head`
        _drop_output()
        return HUNG_UP
    except MemoryError:
        return _fail("the memory is full: make smaller pictures, or fewer at a time", DEVICE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FAILURES:
            _drop_output()
            place = f"{error.filename}: " if error.filename else ""
            return _fail(f"{place}the disk refuses: {os.strerror(error.errno).lower()}", DISK)
        if _is_device_failure(error):
            return _fail(f"the device failed: {first_line(error)}", DEVICE)
        traceback.print_exc()
        return DEVICE


def _tolerate_console() -> None:
    """Print escapes for characters that the console's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Let nothing fail again when Python flushes standard output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


def _is_device_failure(error: Exception) -> bool:
    jax = sys.modules.get("jax")  # not imported here: `--help` needs no JAX
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError)


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

    def _check_value(self, action, value):
        """As argparse, with the nearest choice in the sentence."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = nearest(str(value), map(str, action.choices))
            error.message += f": did you mean {near}?" if near else ""
            raise

    def error(self, message: str) -> NoReturn:
        print(f"error: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        self.exit(BAD_INPUT)


def _unknown(option: str, options) -> str:
    if not option.startswith("-"):
        return f"one argument too many: {option!r}; quote text that has spaces"
    near = _near(option.partition("=")[0], options)
    return f"unknown option {option}" + (f": did you mean {near}?" if near else "")


def _near(option: str, options) -> str | None:
    """The option that someone may have meant, among those of a command."""
    setting = meant(option)
    if setting and SETTINGS[setting].flag in options:
        return SETTINGS[setting].flag
    return nearest(option, options)


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
