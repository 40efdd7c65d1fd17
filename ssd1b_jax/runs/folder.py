"""A run's folder on a disk: files appear in it whole, under another name first, and never outside it."""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ssd1b_jax.errors import RunError, SaveError

PARTIAL = ".partial"  # where files lie until they are whole
IDLE = 600  # seconds, after which nobody writes there any more


class Folder:
    """What is below `root`, by names with slashes. Every object is a worker, with unfinished files of its own."""

    is_local = True

    def __init__(self, root: Path):
        self.root = root
        self._lock: int | None = None
        self.worker = f"{re.sub(r'[^A-Za-z0-9]', '-', socket.gethostname())}-{os.getpid()}-{secrets.token_hex(4)}"
        self.partial = root / PARTIAL / self.worker
        self._checked: set[str] = set()

    def prepare(self, is_alone: bool) -> None:
        """Make a place for unfinished files, and remove those of workers that are no more. Raises SaveError."""
        with saving(self.root):
            self.partial.mkdir(parents=True, exist_ok=True)
            self._sweep(is_alone)

    def tidy(self) -> None:
        """Remove the places of unfinished files, also of workers that were killed, and a folder that is empty."""
        shutil.rmtree(self.partial, ignore_errors=True)
        with suppress(OSError):
            self._sweep(is_alone=False)
        for place in (self.partial.parent, self.root):
            try:
                place.rmdir()
            except OSError:  # there is something
                return

    def _sweep(self, is_alone: bool) -> None:
        """Remove the unfinished files of other workers that are no more."""
        for other in self.partial.parent.iterdir():
            if other != self.partial and (is_alone or _is_gone(other)):
                shutil.rmtree(other, ignore_errors=True)

    def make(self, name: str) -> None:
        """Make a folder. Raises SaveError."""
        with saving(self.root / name):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def move_aside(self, name: str) -> None:
        """Make a folder and all in it unfinished, at once."""
        with saving(self.root / name):
            os.replace(self.root / name, self.partial / secrets.token_hex(8))

    def remove_empty(self, name: str) -> None:
        """Remove a folder that has nothing in it."""
        with suppress(OSError):
            (self.root / name).rmdir()

    def identity(self, name: str) -> tuple[int, ...]:
        """Changes with a file that is replaced."""
        try:
            status = os.stat(self.root / name)
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def lock(self, *, shared: bool) -> None:
        """Have the folder for this process, or for all that have a share, until `unlock`. Raises RunError."""
        self.make("")
        with saving(self.root):
            self._lock = os.open(self.root, os.O_RDONLY)
        if not lock(self._lock, shared=shared):
            self.unlock()
            raise RunError(f"{self.root} is in use: another process is at this run; wait for it, or end it")

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def all_names(self) -> Iterator[str]:
        """Every file, but those that are unfinished."""
        for parent, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name != PARTIAL]
            yield from ((Path(parent) / name).relative_to(self.root).as_posix() for name in names)

    def local(self, name: str) -> Path:
        """A file of this machine."""
        return self.root / name

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.root / name)

    def read(self, name: str) -> bytes | None:
        """What a file holds, None where there is none."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, none where there is none."""
        try:
            file = (self.root / name).open("rb")
        except FileNotFoundError:
            return
        with file:
            yield from file

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Write a file, all of it or nothing; the lines may come from the older one. Raises SaveError."""
        with saving(self.root / name):
            aside = self.partial / secrets.token_hex(8)
            with aside.open("xb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.root / name)

    def names(self, prefix: str, suffix: str) -> list[str]:
        """Files of one folder by how their names begin and end, in order."""
        parent, begin = os.path.split(prefix)
        try:
            listed = os.listdir(self.root / parent)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(os.path.join(parent, n) for n in listed if n.startswith(begin) and n.endswith(suffix))

    def write(self, name: str, data: bytes, parents: bool = True) -> None:
        """Write a file, all of it or nothing; an older one is replaced. Raises SaveError.

        Without `parents` its folder has to be there: FileNotFoundError.
        """
        with self._aside(name, data, parents) as (aside, path):
            os.replace(aside, path)

    def create(self, name: str, data: bytes, parents: bool = True) -> bool:
        """As `write`, but False where there is a file. Of many that try at once one succeeds."""
        with self._aside(name, data, parents) as (aside, path):
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _aside(self, name: str, data: bytes, parents: bool) -> Iterator[tuple[Path, Path]]:
        path, aside = self.root / name, self.partial / secrets.token_hex(8)
        with saving(path, is_missing_told=not parents):
            try:
                if parents:
                    self._make_parent(name)
                with aside.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield aside, path
            finally:
                aside.unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Remove a file, if it is there."""
        with saving(self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, and the folders below the root that are empty without it."""
        self.discard(name)
        for parent in [*PurePosixPath(name).parents][:-1]:
            try:
                (self.root / parent).rmdir()
            except OSError:
                return

    def sha256(self, name: str) -> str | None:
        """The digest of a file, None where there is none, or a link."""
        try:
            with open(self.root / name, "rb", opener=_no_link) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None

    def size(self, name: str) -> int | None:
        """The bytes of a file, None where there is none, or a link."""
        try:
            status = os.lstat(self.root / name)
        except OSError:
            return None
        return status.st_size if os.path.isfile(self.root / name) and not os.path.islink(self.root / name) else None

    def check_inside(self, name: str) -> None:
        """Raise RunError where a link leads the file out of the folder, or a file is where a folder has to be."""
        parent = os.path.dirname(name)
        if parent in self._checked:
            return
        path = self.root / parent
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise RunError(f"the output {name!r} leads out of {self.root} by a link: remove the link {path}")
        places = [self.root / each for each in (parent, *map(str, PurePosixPath(parent).parents))]
        if not all(place.is_dir() for place in places if os.path.lexists(place)):
            raise RunError(f"the output {name!r} needs the folder {path}, and a file is there: move it away")
        if len(self._checked) < 10_000:
            self._checked.add(parent)

    def _make_parent(self, name: str) -> None:
        parent = os.path.dirname(name)
        if parent:
            self.check_inside(name)
            (self.root / parent).mkdir(parents=True, exist_ok=True)


@contextmanager
def saving(path: Path, is_missing_told: bool = False) -> Iterator[None]:
    """Raise SaveError for what the disk refuses; FileNotFoundError stays one where that is wanted."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SaveError) or (is_missing_told and isinstance(error, FileNotFoundError)):
            raise
        raise SaveError(f"{path}: cannot be saved: {(error.strerror or str(error)).lower()}") from error


def lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed, or the process ends. False where another process has it."""
    try:
        import fcntl
    except ImportError:
        raise RunError("a run locks its folder, which this system can't: use Linux, macOS or WSL") from None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        pass
    return True


def _is_gone(partial: Path) -> bool:
    """Whether the worker of this place for unfinished files has ended. A living one writes its status there."""
    try:
        idle = time.time() - partial.stat().st_mtime
    except OSError:
        return False
    host, process, _ = partial.name.rsplit("-", 2)
    is_here = host == re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())
    return idle > IDLE or (is_here and not _is_alive(int(process)))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
