"""A run's folder in an object store: the same as `folder.Folder`, by whole objects and conditional creates.

The one file that knows obstore. Workers there always claim what they make: nothing can be appended to, or locked.
"""

import hashlib
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ssd1b_jax.errors import ImageError, RunError, SaveError, first_line

SCHEMES = ("s3", "gs", "az", "memory", "file")


def is_url(text: str) -> bool:
    """Whether a place is in an object store."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme in SCHEMES


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise RunError("object stores need obstore: run pip install 'ssd1b_jax[stores]'") from None
    return obstore


def read_picture(url: str) -> bytes:
    """The bytes of an object. Raises ImageError."""
    obstore = _obstore()
    place, _, name = url.rpartition("/")
    try:
        return bytes(obstore.get(obstore.store.from_url(place), name).bytes())
    except (OSError, obstore.exceptions.BaseError) as error:
        raise ImageError(f"{url}: cannot be read: {_reason(error)}") from None


class Bucket:
    """What is below a URL, by names with slashes; or below a store of obstore's, for which the URL is only shown.

    All methods raise SaveError where the store can't be reached, or refuses.
    """

    is_local = False

    def __init__(self, url: str, store: Any = None):
        self._obstore = _obstore()
        self.root = url.rstrip("/")
        self.worker = f"{re.sub(r'[^A-Za-z0-9]', '-', socket.gethostname())}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._store = self._obstore.store.from_url(self.root) if store is None else store
        except (ValueError, self._obstore.exceptions.BaseError) as error:
            raise RunError(f"{url} cannot be reached: {_reason(error)}") from None

    def lock(self, *, shared: bool) -> None:
        """Nothing: what counts is created once."""

    def unlock(self) -> None:
        pass

    def prepare(self, is_alone: bool) -> None:
        pass

    def tidy(self) -> None:
        pass

    def make(self, name: str) -> None:
        pass

    def remove_empty(self, name: str) -> None:
        pass

    def check_inside(self, name: str) -> None:
        """Nothing: an object store has no links."""

    def local(self, name: str) -> None:
        """No file of this machine."""

    def move_aside(self, name: str) -> None:
        """Remove all objects below a name."""
        for each in self._listed(name):
            self.discard(each)

    def all_names(self) -> Iterator[str]:
        yield from self._listed()

    def _listed(self, prefix: str | None = None) -> Iterator[str]:
        with self._refusals(prefix or "", "listed"):
            for some in self._obstore.list(self._store, prefix=prefix):
                yield from (each["path"] for each in some)

    def names(self, prefix: str, suffix: str) -> list[str]:
        """As in a folder; at the top only the file that is named so, as a listing may be of a million pictures."""
        parent, slash, _ = prefix.rpartition("/")
        if not slash:
            return [prefix + suffix] if self.exists(prefix + suffix) else []
        return sorted(name for name in self._listed(parent) if name.startswith(prefix) and name.endswith(suffix))

    def identity(self, name: str) -> tuple[Any, ...]:
        head = self._head(name)
        return () if head is None else (head["e_tag"], head["size"], head["last_modified"])

    def exists(self, name: str) -> bool:
        return self._head(name) is not None

    def size(self, name: str) -> int | None:
        head = self._head(name)
        return None if head is None else head["size"]

    def _head(self, name: str) -> Any:
        with suppress(FileNotFoundError), self._refusals(name, "read"):
            return self._obstore.head(self._store, name)
        return None

    def read(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError), self._refusals(name, "read"):
            return bytes(self._obstore.get(self._store, name).bytes())
        return None

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of an object, which is read bit by bit."""
        rest = b""
        with suppress(FileNotFoundError):
            for some in self._read_on(name):
                *whole, rest = (rest + some).split(b"\n")
                yield from (line + b"\n" for line in whole)
        if rest:
            yield rest

    def sha256(self, name: str) -> str | None:
        digest = hashlib.sha256()
        try:
            for some in self._read_on(name):
                digest.update(some)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def _read_on(self, name: str) -> Iterator[bytes]:
        """An object bit by bit. Raises FileNotFoundError."""
        with self._refusals(name, "read"):
            yield from map(bytes, self._obstore.get(self._store, name).stream())

    def write(self, name: str, data: bytes, parents: bool = True) -> None:
        """Put an object."""
        self._put(name, data)

    def write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        """Put an object that is made bit by bit; the lines may come from the older one."""
        with tempfile.TemporaryFile() as file:  # obstore can't be called while it puts
            file.writelines(lines)
            file.seek(0)
            self._put(name, file)

    def create(self, name: str, data: bytes, parents: bool = True) -> bool:
        """Put an object unless there is one, which makes it False."""
        try:
            self._put(name, data, mode="create")
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        return True

    def _put(self, name: str, data: Any, **options: Any) -> None:
        with self._refusals(name, "saved"):
            self._obstore.put(self._store, name, data, **options)

    def discard(self, name: str) -> None:
        with suppress(FileNotFoundError), self._refusals(name, "removed"):
            self._obstore.delete(self._store, name)

    remove = discard

    @contextmanager
    def _refusals(self, name: str, done: str) -> Iterator[None]:
        """Raise SaveError for what the store refuses; that an object is missing, or there already, is no refusal."""
        try:
            yield
        except (FileNotFoundError, self._obstore.exceptions.AlreadyExistsError):
            raise
        except (OSError, self._obstore.exceptions.BaseError) as error:
            raise SaveError(f"{self.root}/{name}: cannot be {done}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return first_line(error).lower()
