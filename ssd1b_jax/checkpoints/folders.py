"""Folders that appear whole or not at all."""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssd1b_jax.errors import Error, SaveError

FULL_DISK = f"os_error_code='{errno.ENOSPC}'"  # in the ValueError that tensorstore raises


def check_free(folder: Path, kind: type[ValueError]) -> None:
    """Raise `kind` where anything but an empty folder is in the way."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise kind(f"{folder} exists and is not an empty folder: choose another target or remove it")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which is synced and renamed to `folder` at the end.

    A failure leaves nothing. What a killed process leaves is removed when the same folder is written
    again. A lock tells it from a folder that another process is filling.
    Raises SaveError for what the disk refuses.
    """
    try:
        with _whole_folder(folder) as partial:
            yield partial
    except Error:
        raise
    except OSError as error:
        raise SaveError(f"{folder}: cannot be saved: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        if FULL_DISK not in str(error):
            raise
        raise SaveError(f"{folder}: cannot be saved: {os.strerror(errno.ENOSPC).lower()}") from error


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    partial, descriptor = _claim(folder)
    try:
        partial.chmod(0o755)
        yield partial
        _sync([*partial.rglob("*"), partial])
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
        _sync([folder.parent])
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove partial folders that no process has locked; another process may be removing them too."""
    import fcntl  # not on Windows, where models can be read but not written

    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        with suppress(OSError), _opened(path) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)


def _claim(folder: Path) -> tuple[Path, int]:
    """A new folder next to `folder`, and a descriptor that locks it.

    Until it is locked, it looks like a leftover. If another process removes it as one, the next is tried.
    """
    import fcntl

    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        with suppress(FileNotFoundError):
            descriptor = os.open(partial, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if partial.exists():
                return partial, descriptor
            os.close(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        with _opened(path) as descriptor:
            os.fsync(descriptor)
