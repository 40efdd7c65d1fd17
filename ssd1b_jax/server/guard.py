"""What every request passes first: an id, the checks of Host, Origin and key, a count, and a line in the log.

A page of another site must not drive a server on this machine. So a Host that is no name of this server is refused
(DNS rebinding), and so is a changing request from another origin (cross-site forms).
"""

import base64
import binascii
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssd1b_jax.server.incoming import Incoming
from ssd1b_jax.server.options import ServerOptions, is_loopback

OPEN_PATHS = ("/healthz", "/", "/docs")  # no key is asked for
OPEN_FOLDERS = ("/page/", "/docs/")  # files of the page, which asks for a key itself, and documents
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
STALLED = 408  # the rest of such a body is not waited for
MAX_QUOTE = 200  # characters of a header that a sentence quotes

Refuse = Callable[[str, int, str, dict[str, str]], Response]  # path, status, sentence, headers
Report = Callable[[Scope, int, float], None]  # status and seconds of an answer


class Guard:
    """An ASGI app around another. `refuse` answers in the form of the dialect that a path belongs to."""

    def __init__(self, app: ASGIApp, options: ServerOptions, refuse: Refuse, report: Report):
        self._app = app
        self._options = options
        self._refuse = refuse
        self._report = report
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:  # a WebSocket, of which there are none here
            await send({"type": "websocket.close"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = secrets.token_hex(8)
        scope["state"] = {"request_id": request_id, "caller": None}
        began = time.monotonic()
        status = 500
        body = Incoming(receive)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if 400 <= status != STALLED:
                    await body.discard()
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        self._open += 1
        try:
            _restore_scheme(scope)
            await (self._refusal(scope) or self._app)(scope, body.receive, send_with_id)
        finally:
            self._open -= 1
            self._report(scope, status, time.monotonic() - began)

    def _refusal(self, scope: Scope) -> Response | None:
        """An answer to a request that may not pass; else its caller is noted."""
        path, headers = scope["path"], Headers(scope=scope)
        most = self._options.limits.requests
        if self._open > most:
            return self._refuse(path, 503, f"{most} requests are open, no more may be: try again", {"retry-after": "1"})
        host = headers.get("host", "")
        if not self._knows_host(host):
            sentence = f"Host {host[:MAX_QUOTE]!r} is no name of this server: start it with --allow-host"
            return self._refuse(path, 403, sentence, {})
        if scope["method"] not in SAFE_METHODS and not self._knows_origin(headers):
            origin = headers.get("origin", "another site")[:MAX_QUOTE]
            return self._refuse(path, 403, f"pages of {origin} may not call this server: see --allow-origin", {})
        caller = self._caller(scope, headers)
        if caller is None and not is_open(path) and scope["method"] != "OPTIONS":
            sentence = "an API key is needed: Missing Authorization or x-api-key in header, or no key of this server"
            # Basic makes a browser ask in a window of its own, which would come before the page's field.
            challenge = "Bearer" if "x-api-key" in headers else 'Bearer, Basic realm="ssd1b"'
            return self._refuse(path, 401, sentence, {"www-authenticate": challenge})
        scope["state"]["caller"] = caller
        return None

    def _knows_host(self, host: str) -> bool:
        names = self._options.host_names
        if names is None:
            return True
        try:
            return (urlsplit(f"//{host}").hostname or "") in names
        except ValueError:
            return False

    def _knows_origin(self, headers: Headers) -> bool:
        """Whether a page that sends this is one of this server's own, or of a listed origin; clients send no Origin."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        own = f"http://{headers.get('host')}", f"https://{headers.get('host')}"
        return origin in own or origin in self._options.origins

    def _caller(self, scope: Scope, headers: Headers) -> Any:
        """What tells callers apart: their address, or where there are keys which one they have; None for no key."""
        if not self._options.keys:
            return (scope.get("client") or ("unknown",))[0]
        indices = map(self._options.key_index, sent_keys(headers))
        return next((f"key {index + 1}" for index in indices if index is not None), None)


def _restore_scheme(scope: Scope) -> None:
    """Take https from a proxy of this machine, so that the addresses in answers have it."""
    peer, *_ = scope.get("client") or ("",)
    if is_loopback(peer) and Headers(scope=scope).get("x-forwarded-proto") == "https":
        scope["scheme"] = "https"


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def sent_keys(headers: Headers) -> list[str]:
    """What a request may mean as its key: a bearer token, x-api-key, or Basic's password or USER:PASSWORD."""
    keys = [headers["x-api-key"]] if "x-api-key" in headers else []
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        keys.append(value)
    elif scheme.lower() == "basic":
        try:
            pair = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return keys
        keys += [pair, pair.partition(":")[2]]
    return keys
