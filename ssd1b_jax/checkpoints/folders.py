"""Folders that appear whole or not at all."""

import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ssd1b_jax.errors import Error, SaveError

OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in the ValueError that tensorstore raises for what a disk refuses
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of a disk without flock


def check_free(folder: Path, kind: type[ValueError]) -> None:
    """Raise `kind` where anything but an empty folder is in the way."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise kind(f"{folder} exists and is not an empty folder: choose another target or remove it")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which is synced and renamed to `folder` at the end.

    A failure leaves nothing. What a killed process leaves is removed when the same folder is written
    again. A lock tells it from a folder that another process is filling; where there are no locks, it stays.
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
        refused = OS_ERROR.search(str(error))
        if refused is None:
            raise
        raise SaveError(f"{folder}: cannot be saved: {os.strerror(int(refused[1])).lower()}") from error


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
        if descriptor is not None:
            os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove partial folders that no process has locked; another process may be removing them too."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        with suppress(OSError), _opened(path) as descriptor:
            if _lock(descriptor, waits=False):
                shutil.rmtree(path, ignore_errors=True)


def _claim(folder: Path) -> tuple[Path, int | None]:
    """A new folder next to `folder`, and a descriptor that locks it, None where folders can't be opened.

    Until it is locked, it looks like a leftover. If another process removes it as one, the next is tried.
    """
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except PermissionError:  # on Windows, which has no such locks either
            return partial, None
        _lock(descriptor, waits=True)
        if partial.exists():
            return partial, descriptor
        os.close(descriptor)


def _lock(descriptor: int, *, waits: bool) -> bool:
    """Lock an open folder, and say whether that could be done. Raises BlockingIOError unless it `waits`."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    is_windows_file = os.name == "nt" and path.is_file()  # which is synced only if it could be written too
    descriptor = os.open(path, os.O_RDWR if is_windows_file else os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(paths: Iterable[Path]) -> None:
    """Bring files to the disk; and folders, where a disk can do that."""
    for path in paths:
        with suppress(OSError) if path.is_dir() else nullcontext(), _opened(path) as descriptor:
            os.fsync(descriptor)
