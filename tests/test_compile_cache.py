"""Compiled programs on disk: whole, checked, bounded, and never in the way."""

import errno
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssd1b_jax.engine import compile_cache
from ssd1b_jax.engine.compile_cache import CheckedCache

PROGRAM = """
import sys, jax, logging
logging.basicConfig(level=logging.WARNING, format="%(message)s")
jax.config.update("jax_platforms", "cpu")
from ssd1b_jax.engine.compile_cache import enable_compilation_cache
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
enable_compilation_cache()
compiled = []
jax.monitoring.register_event_listener(lambda event, **_: compiled.append(event))
print(float(jax.jit(lambda x: (x * 3).sum())(jax.numpy.arange(5.0))), "/jax/compilation_cache/cache_hits" in compiled)
"""


def run(folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)


@pytest.fixture
def cache(tmp_path):
    return CheckedCache(tmp_path / "programs", 1000)


def test_what_was_kept_comes_back(cache):
    assert cache.get("a") is None
    cache.put("a", b"program")
    assert cache.get("a") == b"program"
    assert {path.name for path in cache._path.iterdir()} == {"a-cache", "a-cache.sha256"}


@pytest.mark.parametrize("damage", [b"", b"progrbm", b"program and more"])
def test_a_damaged_entry_is_removed_and_told_once(cache, damage, caplog):
    for key in "ab":
        cache.put(key, b"program")
        (cache._path / f"{key}-cache").write_bytes(damage)
        assert cache.get(key) is None
    assert list(cache._path.iterdir()) == []
    assert caplog.messages == [f"a compiled program in {cache._path} was damaged: it is removed and compiled again"]
    cache.put("a", b"program")
    assert cache.get("a") == b"program"


def test_an_entry_of_another_program_is_replaced(cache):
    """JAX itself writes no digest, and never replaces an entry."""
    cache._path.mkdir()
    (cache._path / "a-cache").write_bytes(b"")
    assert cache.get("a") is None
    cache.put("a", b"program")
    assert cache.get("a") == b"program"


def test_the_least_recently_used_go_first(cache):
    for number, key in enumerate("abc"):
        cache.put(key, bytes(300))
        os.utime(cache._path / f"{key}-cache", (number, number))
    assert cache.get("a") == bytes(300)  # which renews it
    cache.put("d", bytes(300))
    assert {path.name for path in cache._path.glob("*-cache")} == {"a-cache", "c-cache", "d-cache"}
    assert not (cache._path / "b-cache.sha256").exists()
    cache.put("e", bytes(1001))
    assert cache.get("e") is None, "larger than all"


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only file system")]
)
def test_a_disk_that_refuses_is_told_once_and_keeps_nothing(cache, monkeypatch, caplog, code, reason):
    write = Path.write_bytes

    def refuse(path, data):
        write(path, data[:3])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    cache.put("a", b"program")
    cache.put("b", b"program")
    assert list(cache._path.iterdir()) == []
    assert caplog.messages == [
        f"compiled programs can't be kept in {cache._path} ({reason}), so the next start is slower: "
        "set JAX_COMPILATION_CACHE_DIR to a folder with room"
    ]


def test_several_writers_leave_only_whole_entries(cache):
    def work(number: int) -> None:
        for key in "abc":
            cache.put(key, b"program " + key.encode())
            assert cache.get(key) in (b"program " + key.encode(), None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    for key in "abc":
        assert cache.get(key) == b"program " + key.encode()
    assert len(list(cache._path.iterdir())) == 6


@pytest.mark.slow
def test_jax_uses_it(tmp_path):
    """The first process compiles, the second finds the program, the third finds it damaged and compiles again."""
    first, second = run(tmp_path), run(tmp_path)
    assert (first.stdout, second.stdout) == ("30.0 False\n", "30.0 True\n"), first.stderr + second.stderr
    for entry in tmp_path.glob("*-cache"):
        entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    third = run(tmp_path)
    assert third.stdout == "30.0 False\n"
    assert third.stderr == f"a compiled program in {tmp_path} was damaged: it is removed and compiled again\n"
    assert run(tmp_path).stdout == "30.0 True\n"


def test_the_log_is_the_packages_own():
    assert compile_cache.log is logging.getLogger("ssd1b_jax.engine.compile_cache")
