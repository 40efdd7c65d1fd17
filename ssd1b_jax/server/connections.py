"""A listening socket that takes a bounded number of connections, whatever they do or don't send."""

import socket
from collections import defaultdict
from collections.abc import Callable
from typing import Any


class Listening(socket.socket):
    """`most` connections may be open, half of them from one address; others are closed at once.

    A connection that its caller has closed does not count, though the server takes some seconds to let go of it.
    """

    def __init__(self, listening: socket.socket, most: int):
        super().__init__(fileno=listening.detach())
        self.most = most
        self.connections: defaultdict[str, set[socket.socket]] = defaultdict(set)

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises ConnectionAbortedError for a connection too many, of which asyncio then takes no more notice."""
        accepted, address = super().accept()
        caller = address[0]
        if self._is_full(caller):
            self._forget_gone()
            if self._is_full(caller):
                accepted.close()
                raise ConnectionAbortedError
        connection = _Connection(accepted, lambda connection: self._forget(caller, connection))
        self.connections[caller].add(connection)
        return connection, address

    def _is_full(self, caller: str) -> bool:
        total = sum(map(len, self.connections.values()))
        return total >= self.most or len(self.connections.get(caller, ())) >= max(self.most // 2, 1)

    def _forget_gone(self) -> None:
        gone = [(caller, one) for caller, opened in self.connections.items() for one in opened if _is_gone(one)]
        for caller, connection in gone:
            self._forget(caller, connection)

    def _forget(self, caller: str, connection: socket.socket) -> None:
        self.connections[caller].discard(connection)
        if not self.connections[caller]:
            del self.connections[caller]


class _Connection(socket.socket):
    def __init__(self, accepted: socket.socket, on_close: Callable[[socket.socket], None]):
        super().__init__(fileno=accepted.detach())
        self._on_close = on_close

    def close(self) -> None:
        super().close()
        self._on_close(self)


def _is_gone(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
