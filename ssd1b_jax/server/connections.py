"""A listening socket that takes a bounded number of connections, whatever they do or don't send."""

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any


class Listening(socket.socket):
    """`most` connections may be open, half of them from one address; others are closed at once."""

    def __init__(self, listening: socket.socket, most: int):
        super().__init__(fileno=listening.detach())
        self.most = most
        self.open_by_address: Counter[str] = Counter()

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises ConnectionAbortedError for a connection too many, of which asyncio then takes no more notice."""
        accepted, address = super().accept()
        caller = address[0]
        if self.open_by_address.total() >= self.most or self.open_by_address[caller] >= max(self.most // 2, 1):
            accepted.close()
            raise ConnectionAbortedError
        self.open_by_address[caller] += 1
        return _Connection(accepted, lambda: self._forget(caller)), address

    def _forget(self, caller: str) -> None:
        self.open_by_address[caller] -= 1
        if not self.open_by_address[caller]:
            del self.open_by_address[caller]


class _Connection(socket.socket):
    def __init__(self, accepted: socket.socket, on_close: Callable[[], None]):
        super().__init__(fileno=accepted.detach())
        self._on_close: Callable[[], None] | None = on_close

    def close(self) -> None:
        super().close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
