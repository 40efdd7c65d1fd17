"""Pictures that are sent as addresses: fetched from public machines only, within limits of bytes and time.

A name is looked up once, every address that it has is checked, and the connection goes to one that was checked: a name
that changes its address meanwhile (DNS rebinding) changes nothing. Each redirect is checked as the first address was.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from ssd1b_jax.server.fields import FieldError

SCHEMES = ("http", "https")
MAX_URL = 2000  # characters
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PART = 1 << 16  # bytes that are read at a time
NAT64 = ipaddress.ip_network("64:ff9b::/96")
AGENT = "ssd1b_jax"
CONTEXT = ssl.create_default_context()

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Fetcher:
    """Fetches files of up to `most` bytes in up to `seconds`. `allows` says which addresses may be connected to."""

    most: int
    seconds: float
    allows: Callable[[Address], bool] = lambda address: is_public(address)

    def fetch(self, url: str, name: str) -> bytes:
        """The body of a picture's address. Raises FieldError with the caller's name for it."""
        end = time.monotonic() + self.seconds
        for _ in range(1 + MAX_REDIRECTS):
            parts = _split(url, name)
            with self._open(parts, name, end) as answer:
                if answer.status in REDIRECTS and (target := answer.headers.get("location")):
                    url = urljoin(url, target)
                    continue
                if answer.status != 200:
                    raise FieldError(f"{name}: the address answers with status {answer.status}", name)
                return self._read(answer, name, end)
        raise FieldError(f"{name}: the address leads to another more than {MAX_REDIRECTS} times", name)

    @contextlib.contextmanager
    def _open(self, parts: SplitResult, name: str, end: float) -> Iterator[http.client.HTTPResponse]:
        """The answer of a server; the connection is cut when the time has passed, whatever the server does."""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = self._checked(parts, port, name)
        left = end - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            with socket.create_connection((address, port), timeout=left) as connection:
                timer = threading.Timer(max(end - time.monotonic(), 0), _cut, (connection,))
                timer.start()
                try:
                    client = http.client.HTTPConnection(parts.hostname, port)
                    client.sock = connection
                    if parts.scheme == "https":
                        client.sock = CONTEXT.wrap_socket(connection, server_hostname=parts.hostname)
                    with client.sock:
                        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                        client.request("GET", path, headers={"User-Agent": AGENT, "Accept": "image/*"})
                        with client.getresponse() as answer:
                            yield answer
                finally:
                    timer.cancel()
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, FieldError):
                raise
            late = time.monotonic() >= end
            reason = f"not in {self.seconds:g} seconds" if late else "the connection failed"
            raise FieldError(f"{name}: the address does not answer: {reason}", name) from None

    def _checked(self, parts: SplitResult, port: int, name: str) -> str:
        """An address of the host, all of whose addresses may be connected to."""
        refusal = FieldError(f"{name}: only addresses of public machines are fetched", name)
        try:
            answers = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
            addresses = [str(info[4][0]) for info in answers]
            if addresses and all(self.allows(ipaddress.ip_address(address)) for address in addresses):
                return addresses[0]
        except (OSError, ValueError):  # no such name, or one that is none
            pass
        raise refusal from None

    def _read(self, answer: http.client.HTTPResponse, name: str, end: float) -> bytes:
        parts, size = [], 0
        while part := answer.read(PART):
            size += len(part)
            if size > self.most:
                raise FieldError(f"{name}: the file has more than {self.most} bytes: send a smaller picture", name)
            parts.append(part)
        if time.monotonic() >= end:  # what was cut reads as what has ended
            raise TimeoutError
        return b"".join(parts)


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet's, and stands for no other that is not."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id or address.is_site_local:
            return False
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _split(url: str, name: str) -> SplitResult:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        is_plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= MAX_URL
        if is_plain and parts.scheme in SCHEMES and parts.hostname and parts.username is None and parts.port != 0:
            return parts
    raise FieldError(f"{name}: only addresses of public machines are fetched", name)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
