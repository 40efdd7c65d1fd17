"""What a server allows: addresses, keys, sizes and limits."""

import hashlib
import hmac
import importlib
import ipaddress
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssd1b_jax.errors import RequestError
from ssd1b_jax.request import Request
from ssd1b_jax.server.credentials import Credentials

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MIN_KEY = 8  # characters
MAX_SIDE = 4096  # pixels, of a size that another interface asks for

Size = tuple[int, int]  # width, height
# Given a resolved Request and None, or its picture's pixels, it gives a sentence that refuses them, or None.
Check = Callable[[Request, np.ndarray | None], str | None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one caller may ask for, and what all callers together may hold. Raises RequestError."""

    body_bytes: int = 32 << 20  # of one request
    bodies_bytes: int = 256 << 20  # of all requests that are not answered, and again of all inputs that wait
    body_idle_seconds: float = 5.0  # between two parts of a body
    body_seconds: float = 60.0  # for a whole body
    input_pixels: int = 25_000_000  # of an input picture
    output_pixels: int = 16 << 20  # of a picture that is enlarged
    pictures: int = 10  # of one request
    prompt_characters: int = 10_000
    connections: int = 800  # that are open; half of them may be one address's
    requests: int = 512  # that are open
    waiting: int = 256  # pictures in the queue
    waiting_seconds: float = 600.0  # predicted for the pictures in front of a new one
    files: int = 100  # that batches read and write
    files_bytes: int = 256 << 20
    batches: int = 16
    fetches: int = 8  # of addresses at once
    fetch_seconds: float = 10.0
    kept_seconds: float = 3600.0  # for which a job that ended is kept
    kept_jobs: int = 1000
    kept_bytes: int = 256 << 20  # of pictures that are kept

    def __post_init__(self):
        if self.waiting < 1:
            raise RequestError(f"the queue must take at least 1 picture, got {self.waiting}")

    @property
    def most_pictures(self) -> int:
        """Of one request: more than may wait would never be taken."""
        return min(self.pictures, self.waiting)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a server listens and what it serves. Raises RequestError for what is unsafe or impossible.

    `keys` are the secrets that callers may present; without any, only loopback addresses may be bound. `sizes` are
    compiled before the server is ready; empty is the model's own size. `any_size` lets our own routes take others,
    which compile when they come. `origins` are web origins (`https://example.org`) whose pages may call this server,
    `hosts` further names that it is reached by. `keep` is a folder for every picture that is made.
    `credentials` sign every picture.
    With `allow_url` pictures may be sent as addresses of public machines. `check` may refuse what is asked for, and
    what was made. `grace_seconds` is the time to answer what was accepted, once the server is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    keys: tuple[str, ...] = field(default=(), repr=False)
    sizes: tuple[Size, ...] = ()
    any_size: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    keep: Path | None = None
    credentials: Credentials | None = None
    allow_url: bool = False
    check: Check | None = None
    grace_seconds: float = 30.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise RequestError(f"port must be a whole number from 0 to 65535, got {self.port}")
        if not self.is_loopback and not self.keys:
            raise RequestError(
                f"host {self.host} can be reached from other machines, which needs a key: "
                "give --api-key-file FILE, or leave the host at 127.0.0.1"
            )
        if short := [key for key in self.keys if len(key) < MIN_KEY]:
            raise RequestError(f"an API key must have at least {MIN_KEY} characters, got one of {len(short[0])}")

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def host_names(self) -> frozenset[str] | None:
        """Names that a Host header may have; None is any, as a key keeps other websites' pages out."""
        if self.keys and not self.hosts:
            return None
        return frozenset((*LOOPBACK_NAMES, self.host.lower(), *(name.lower() for name in self.hosts)))

    def key_index(self, sent: str) -> int | None:
        """Which of the keys this is; every one is compared, in constant time."""
        digest = _digest(sent)
        matches = [hmac.compare_digest(digest, _digest(key)) for key in self.keys]
        return matches.index(True) if any(matches) else None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_keys(path: str | Path) -> tuple[str, ...]:
    """The keys of a file, one a line; empty lines and lines that start with # are left out. Raises RequestError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise RequestError(f"the key file {path} can't be read: {reason.lower()}") from None
    keys = tuple(_keys(lines))
    if not keys:
        raise RequestError(f"the key file {path} has no key: write one a line, of at least {MIN_KEY} characters")
    return keys


def _keys(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            yield text


def read_check(spec: str) -> Check:
    """The operator's hook, from `module:function`; modules of this folder count. Raises RequestError."""
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise RequestError(f"check must be module:function, got {spec!r}")
    sys.path.insert(0, os.getcwd())
    try:
        check = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RequestError(f"check {spec} can't be imported: {error}") from None
    finally:
        sys.path.pop(0)
    if not callable(check):
        raise RequestError(f"check must name a function, got {type(check).__name__}")
    return check
