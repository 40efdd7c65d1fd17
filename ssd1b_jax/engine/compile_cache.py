"""Compiled programs on disk: written whole, checked before they are used, bounded in size.

JAX's own cache writes entries in place and reads them unchecked. After a full disk an empty entry stays for good, and
one flipped bit can crash the process. So JAX is handed the cache of this module, through `get_file_cache`, the internal
function by which JAX makes its own; a JAX without that function keeps its own cache.

An entry is JAX's file `KEY-cache` and beside it `KEY-cache.sha256`. An entry without the second is not used: another
program's JAX wrote it.
"""

import errno
import hashlib
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import jax
import platformdirs
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface

log = logging.getLogger(__name__)

MAX_BYTES = 8 << 30  # of all entries, unless jax_compilation_cache_max_size says otherwise
JAX_DEFAULT_SECONDS = 1.0  # JAX keeps programs that took longer to compile
KEPT_SECONDS = 0.05  # this package keeps small programs too
VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def enable_compilation_cache() -> Path:
    """Keep compiled programs in the user's cache folder, unless JAX was told of another already.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. Small
    programs are kept too, unless JAX was told from how many seconds on.
    """
    if jax.config.jax_compilation_cache_dir is None:
        folder = Path(platformdirs.user_cache_dir("ssd1b_jax")) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if jax.config.jax_persistent_cache_min_compile_time_secs == JAX_DEFAULT_SECONDS:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)
    if hasattr(compilation_cache, "get_file_cache"):
        compilation_cache.get_file_cache = _checked_cache
    return Path(jax.config.jax_compilation_cache_dir)


def _checked_cache(path: str) -> tuple["CheckedCache", str]:
    """Stands in for JAX's `get_file_cache`."""
    size = jax.config.jax_compilation_cache_max_size
    return CheckedCache(Path(path), MAX_BYTES if size < 0 else size), path


class CheckedCache(CacheInterface):
    """Programs by key, in a folder. Trouble with the disk is told once, by the log, and never raised.

    Reading an entry renews its time; the entries that were used least recently are removed where there are more than
    `max_bytes`. Several processes may use a folder at once.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self._path = folder
        self._max_bytes = max_bytes
        self._told: set[str] = set()

    def get(self, key: str) -> bytes | None:
        """The program, or None where it was never kept or is damaged; what is damaged is removed."""
        entry, digest = self._files(key)
        try:
            expected = digest.read_text(encoding="ascii").strip()
            program = entry.read_bytes()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            self._tell("read", f"a compiled program can't be read ({_reason(error)}), so it is compiled again")
            return None
        if hashlib.sha256(program).hexdigest() != expected:
            self._tell("damaged", f"a compiled program in {self._path} was damaged: it is removed and compiled again")
            _remove(entry, digest)
            return None
        with suppress(OSError):
            os.utime(entry)
        return program

    def put(self, key: str, value: bytes) -> None:
        """Keep a program. An entry that can't be used is replaced."""
        entry, digest = self._files(key)
        if len(value) > self._max_bytes:
            return
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            _remove(digest)  # first, so that no entry is ever beside another's digest
            _write(entry, value)
            _write(digest, hashlib.sha256(value).hexdigest().encode("ascii"))
            self._evict()
        except OSError as error:
            with suppress(OSError):
                _remove(entry, digest)
            self._tell(
                "write",
                f"compiled programs can't be kept in {self._path} ({_reason(error)}), so the next start is slower: "
                f"set {VARIABLE} to a folder with room",
            )

    def _files(self, key: str) -> tuple[Path, Path]:
        return self._path / f"{key}-cache", self._path / f"{key}-cache.sha256"

    def _evict(self) -> None:
        """Remove the entries that were used least recently, until the rest has room."""
        entries = sorted(self._entries(), reverse=True)
        total = 0
        for _, size, entry in entries:
            total += size
            if total > self._max_bytes:
                _remove(entry.with_name(f"{entry.name}.sha256"), entry)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """The time, size and path of each entry; another process may remove some meanwhile."""
        for entry in self._path.glob("*-cache"):
            with suppress(FileNotFoundError):
                status = entry.stat()
                yield status.st_mtime, status.st_size, entry

    def _tell(self, trouble: str, sentence: str) -> None:
        if trouble not in self._told:
            self._told.add(trouble)
            log.warning(sentence)


def _write(path: Path, data: bytes) -> None:
    """Write under another name in the same folder, then rename."""
    partial = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            _remove(partial)
        raise


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    return (getattr(error, "strerror", None) or str(error)).lower()
