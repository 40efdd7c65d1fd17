"""results.jsonl: a line for each picture that is done or has failed, in order of completion.

A line is written after its picture is whole on the disk, so a picture is counted by its line and never without it. Of
several lines for one output the last one counts. A line that was cut off when a process died is no line.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile
from typing import Any

from ssd1b_jax.errors import RunError
from ssd1b_jax.runs.folder import Folder, lock, saving
from ssd1b_jax.runs.place import Place

NAME, END = "results", ".jsonl"
CLAIMS = ".claims"  # the folder of blocks that workers have claimed

Entry = dict[str, Any]


def file_name(worker: str = "") -> str:
    """The journal of the only worker, or of one of several."""
    return f"{NAME}-{worker}{END}" if worker else f"{NAME}{END}"


def files(folder: Place) -> list[str]:
    """The journals of all workers."""
    return folder.names(NAME, END)


def claimed(folder: Place) -> list[str]:
    """The journals of blocks that are done, and of pictures that a fleet's worker has made of one that is not."""
    return folder.names(f"{CLAIMS}/", END)


def parse(data: bytes) -> Entry | None:
    """A line of a journal; None for one that is damaged."""
    try:
        entry = json.loads(data)
    except (ValueError, RecursionError):
        return None
    is_whole = data.endswith(b"\n") and isinstance(entry, dict) and isinstance(entry.get("output"), str | None)
    return entry if is_whole else None


def dump(entry: Entry) -> bytes:
    return (json.dumps(entry) + "\n").encode()


def read(folder: Place, name: str) -> Iterator[Entry]:
    """The entries of one journal."""
    yield from filter(None, map(parse, folder.lines(name)))


class Journal:
    """One worker's journal, open to be added to by many threads. Only one process may have it open."""

    def __init__(self, folder: Folder, name: str):
        self._path = folder.local(name)
        self._folder = folder
        self._mutex = threading.Lock()
        with saving(self._path):
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            is_mine = lock(self._file) and os.path.samestat(os.fstat(self._file), os.stat(self._path))
        if not is_mine:
            os.close(self._file)
            raise RunError(f"{self._path} is in use: another process is at this run; wait for it, or end it")

    def replace(self, entries: Iterable[Entry]) -> None:
        """Have these entries, which may come from the journal itself, in place of all: at once, or not at all.

        The lock goes with the new file.
        """
        aside = self._folder.partial / "journal"
        with saving(self._path):
            new = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
            lock(new)
            with open(new, "ab", closefd=False) as file:
                file.writelines(map(dump, entries))
                file.flush()
                os.fsync(new)
            os.replace(aside, self._path)
            os.close(self._file)
        self._file = new

    def add(self, entry: Entry) -> None:
        """Append an entry: all of it, or nothing. Raises SaveError."""
        data = dump(entry)
        with self._mutex, saving(self._path):
            length = os.fstat(self._file).st_size
            try:
                while data:
                    data = data[os.write(self._file, data) :]
            except OSError:
                os.ftruncate(self._file, length)
                raise

    def put(self) -> None:
        """Make all that was added safe on the disk. Raises SaveError."""
        with self._mutex, saving(self._path):
            os.fsync(self._file)

    def close(self) -> None:
        """As `put`, and let others have the journal."""
        try:
            self.put()
        finally:
            os.close(self._file)


class Gathered:
    """The journal of the only worker of a run in an object store, where nothing can be appended to.

    Entries lie in a file of this machine, and are put whole by `close`. Until then each must have a file of its own.
    """

    def __init__(self, folder: Place, name: str):
        self._folder, self._name = folder, name
        self._mutex = threading.Lock()
        self._file = TemporaryFile()

    def replace(self, entries: Iterable[Entry]) -> None:
        """Have these entries, which may come from the journal itself, in place of all."""
        self._file.seek(0)
        self._file.truncate()
        self._file.writelines(map(dump, entries))

    def add(self, entry: Entry) -> None:
        with self._mutex:
            self._file.write(dump(entry))

    def put(self) -> None:
        """Raises SaveError."""
        with self._mutex:
            self._file.seek(0)
            self._folder.write_lines(self._name, self._file)
            self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self.put()
        self._file.close()
